"""The life of an invoice, told by stripe-python as it is: the sandbox has to be taken for Stripe.

    opentab sandbox --listen 127.0.0.1:12111 &
    python3 tests/clients/stripe_life.py [http://127.0.0.1:12111]

The address may also come from STRIPE_API_BASE. Ends with "N passed, 0 failed", and with status 1 on a failure.
"""

import http.server
import os
import queue
import sys
import threading
import time

import stripe

stripe.api_base = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("STRIPE_API_BASE", "http://127.0.0.1:12111")
stripe.api_key = os.environ.get("STRIPE_SECRET_KEY", "sk_test_sandbox")
stripe.max_network_retries = 0

CHECKS = []


def check(function):
    """Registers a check; they run in the order in which they are written."""
    CHECKS.append(function)
    return function


def refused(code, call, *args, status=400, **kwargs):
    """The error that `call` raises, which has to be an InvalidRequestError with `code`."""
    try:
        call(*args, **kwargs)
    except stripe.InvalidRequestError as error:
        assert error.code == code, (error.code, error.user_message)
        assert error.http_status == status, error.http_status
        return error
    raise AssertionError(f"{call.__qualname__} was not refused")


def customer_with_card(card="pm_card_visa"):
    customer = stripe.Customer.create(name="Ada", email="ada@example.com", metadata={"k": "v"})
    method = stripe.PaymentMethod.attach(card, customer=customer.id)
    return stripe.Customer.modify(customer.id, invoice_settings={"default_payment_method": method.id})


def draft(customer, amounts=(1000, 250)):
    invoice = stripe.Invoice.create(
        customer=customer.id, currency="usd", auto_advance=False, pending_invoice_items_behavior="exclude"
    )
    lines = [{"amount": amount, "description": f"line {amount}", "metadata": {"item_key": str(at)}}
             for at, amount in enumerate(amounts)]
    return stripe.Invoice.add_lines(invoice.id, lines=lines) if lines else invoice


@check
def a_customer_has_a_card():
    customer = customer_with_card()
    assert customer.invoice_settings.default_payment_method.startswith("pm_")
    assert stripe.Customer.retrieve(customer.id).metadata["k"] == "v"
    found = stripe.Customer.list(email="ada@example.com", limit=1)
    assert found.data[0].id == customer.id
    assert [method.type for method in stripe.Customer.list_payment_methods(customer.id)] == ["card"]


@check
def lines_are_added_changed_and_removed_in_bulk():
    invoice = draft(customer_with_card())
    assert invoice.total == 1250
    first, second = invoice.lines.data
    assert first.parent.invoice_item_details.invoice_item.startswith("ii_")
    changed = stripe.Invoice.update_lines(
        invoice.id, lines=[{"id": first.id, "amount": 1100}], invoice_metadata={"rev": "2"}
    )
    assert (changed.total, changed.metadata["rev"]) == (1350, "2")
    assert changed.lines.data[0].metadata["item_key"] == "0"
    removed = stripe.Invoice.remove_lines(invoice.id, lines=[{"id": second.id, "behavior": "delete"}])
    assert (removed.total, len(removed.lines.data)) == (1100, 1)


@check
def an_invoice_is_finalized_and_paid():
    invoice = draft(customer_with_card())
    finalized = stripe.Invoice.finalize_invoice(invoice.id)
    assert finalized.status == "open" and finalized.number and finalized.hosted_invoice_url
    paid = stripe.Invoice.pay(invoice.id)
    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 1250, 0)
    payments = stripe.InvoicePayment.list(invoice=invoice.id)
    assert [payment.status for payment in payments] == ["paid"]


@check
def another_is_voided_and_a_third_deleted():
    customer = customer_with_card()
    second = stripe.Invoice.finalize_invoice(draft(customer).id)
    assert stripe.Invoice.void_invoice(second.id).status == "void"
    third = draft(customer)
    assert stripe.Invoice.delete(third.id).deleted
    waiting = stripe.InvoiceItem.list(customer=customer.id, pending=True)
    assert sorted(item.amount for item in waiting) == [250, 1000]
    for item in waiting:
        assert stripe.InvoiceItem.delete(item.id).deleted


@check
def more_than_ten_lines_are_paged():
    invoice = draft(customer_with_card(), range(1, 36))
    assert len(invoice.lines.data) == 10 and invoice.lines.has_more
    assert [line.amount for line in invoice.lines.auto_paging_iter()] == list(range(1, 36))
    page = stripe.Invoice.list_lines(invoice.id, limit=20)
    assert [line.amount for line in page.auto_paging_iter()] == list(range(1, 36))


@check
def lists_are_paged_in_both_directions():
    made = [stripe.Customer.create(name=str(at)).id for at in range(5)][::-1]
    page = stripe.Customer.list(limit=2)
    assert [customer.id for customer in page] == made[:2] and page.has_more
    after = page.next_page()
    assert [customer.id for customer in after] == made[2:4]
    before = stripe.Customer.list(limit=2, ending_before=made[2])
    assert [customer.id for customer in before] == made[:2]


@check
def a_product_and_a_price_make_a_line():
    invoice = draft(customer_with_card(), [])
    product = stripe.Product.create(name="API calls", unit_label="call")
    price = stripe.Price.create(product=product.id, currency="usd", unit_amount_decimal="0.125", lookup_key=product.id)
    assert stripe.Price.list(lookup_keys=[product.id]).data[0].id == price.id
    lines = [{"pricing": {"price": price.id}, "quantity": 1000}]
    assert stripe.Invoice.add_lines(invoice.id, lines=lines).total == 125


@check
def errors_have_the_classes_and_codes_of_stripe():
    refused("resource_missing", stripe.Invoice.retrieve, "in_none", status=404)
    refused("parameter_missing", stripe.Invoice.create, currency="usd")
    assert refused("parameter_unknown", stripe.Customer.create, nonsense=1).param == "nonsense"
    invoice = draft(customer_with_card())
    stripe.Invoice.finalize_invoice(invoice.id)
    refused("invoice_not_editable", stripe.Invoice.add_lines, invoice.id, lines=[{"amount": 1}])
    refused("invoice_not_editable", stripe.Invoice.finalize_invoice, invoice.id)
    try:
        stripe.Customer.list(api_key="sk_test_wrong")
        raise AssertionError("a wrong key was let in")
    except stripe.AuthenticationError as error:
        assert error.http_status == 401


@check
def a_declined_card_is_a_card_error():
    invoice = draft(customer_with_card("pm_card_chargeCustomerFail"))
    try:
        stripe.Invoice.pay(invoice.id)
        raise AssertionError("the card was charged")
    except stripe.CardError as error:
        assert (error.code, error.error.decline_code) == ("card_declined", "generic_decline")
    assert stripe.Invoice.retrieve(invoice.id).status == "open"


@check
def a_key_gives_the_same_answer_twice():
    key = f"life-{time.time_ns()}"
    first = stripe.Customer.create(name="Once", idempotency_key=key)
    second = stripe.Customer.create(name="Once", idempotency_key=key)
    assert first.id == second.id
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    try:
        stripe.Customer.create(name="Twice", idempotency_key=key)
        raise AssertionError("the key was taken for another request")
    except stripe.IdempotencyError as error:
        assert error.http_status == 400


@check
def events_tell_what_happened():
    customer = customer_with_card()
    invoice = stripe.Invoice.pay(draft(customer).id)
    told = [event for event in stripe.Event.list(limit=100, type="invoice.*").auto_paging_iter()
            if event.data.object.id == invoice.id]
    kinds = [event.type for event in reversed(told)]
    assert kinds[0] == "invoice.created" and kinds.index("invoice.finalized") < kinds.index("invoice.paid")
    assert told[0].data.object.customer == customer.id


@check
def a_webhook_arrives_with_a_right_signature():
    heard = queue.Queue()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.put((body, self.headers["Stripe-Signature"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = stripe.WebhookEndpoint.create(
        url=f"http://127.0.0.1:{server.server_port}/", enabled_events=["invoice.finalized"]
    )
    invoice = stripe.Invoice.finalize_invoice(draft(customer_with_card()).id)
    body, signature = heard.get(timeout=20)
    event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
    assert (event.type, event.data.object.id) == ("invoice.finalized", invoice.id)
    try:
        stripe.Webhook.construct_event(body, signature, endpoint.secret + "x")
        raise AssertionError("a wrong secret was taken")
    except stripe.SignatureVerificationError:
        pass
    assert stripe.WebhookEndpoint.delete(endpoint.id).deleted
    server.shutdown()


def main():
    failed = 0
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok      {name}")
        except Exception as error:  # every kind of failure is one
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
