//! What people do in Stripe's dashboard is met by policy, reported, and never bills anything twice.

use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::{self, CustomerChange};
use opentab_sandbox::Fault;
use serde_json::Value;

use crate::tab::Tab;

/// Ada's draft shows 100 calls at 2 cents and 10 mails at 3.
async fn with_ada() -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.sells(&ada, "mails", "3").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.uses(&ada, "mails", 10, "k2").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 230);
    (t, ada)
}

async fn by_hand(t: &Tab, customer: &Customer, rest: &str, body: &str) -> Value {
    let id = t.current(customer).await.stripe_invoice_id.unwrap();
    let answer = t.stripe("POST", &format!("/invoices/{id}{rest}"), body).await;
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

/// The line that costs so much.
async fn line(t: &Tab, customer: &Customer, amount: i64) -> String {
    let lines = t.lines_at_stripe(customer).await;
    lines.into_iter().find(|line| line.1 == amount).unwrap().0
}

async fn remove_the_mails(t: &Tab, ada: &Customer) {
    let id = line(t, ada, 30).await;
    by_hand(t, ada, "/remove_lines", &format!("lines[0][id]={id}&lines[0][behavior]=delete")).await;
}

async fn edit_the_calls(t: &Tab, ada: &Customer, amount: i64) {
    let id = line(t, ada, 200).await;
    by_hand(t, ada, &format!("/lines/{id}"), &format!("amount={amount}")).await;
}

async fn add_a_line(t: &Tab, ada: &Customer, amount: i64) {
    let invoice = t.current(ada).await.stripe_invoice_id.unwrap();
    let customer = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
    let body =
        format!("customer={customer}&invoice={invoice}&amount={amount}&currency=usd&description=Consulting");
    let answer = t.stripe("POST", "/invoiceitems", &body).await;
    assert!(answer["error"].is_null(), "{answer}");
}

async fn delete_the_draft(t: &Tab, ada: &Customer) {
    let id = t.current(ada).await.stripe_invoice_id.unwrap();
    let answer = t.stripe("DELETE", &format!("/invoices/{id}"), "").await;
    assert_eq!(answer["deleted"], true, "{answer}");
}

async fn close(t: &Tab) {
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
}

#[tokio::test]
async fn a_line_that_somebody_removed_is_put_back() {
    let (t, ada) = with_ada().await;
    remove_the_mails(&t, &ada).await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 230);
    assert_eq!((t.incidents().await, t.audited("draft.edited").await), (vec!["draft_edited".to_owned()], 1));
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 230);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_line_that_somebody_edited_is_put_back() {
    let (t, ada) = with_ada().await;
    edit_the_calls(&t, &ada, 1).await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 230);
    assert_eq!((t.incidents().await, t.audited("draft.edited").await), (vec!["draft_edited".to_owned()], 1));
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 230);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn an_edit_that_nobody_reported_is_found_by_the_next_write() {
    let (t, ada) = with_ada().await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    edit_the_calls(&t, &ada, 1).await;
    t.uses(&ada, "mails", 1, "k3").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 233);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn lines_of_others_are_left_alone_and_finalized_with_ours() {
    let (t, ada) = with_ada().await;
    add_a_line(&t, &ada, 5_000).await;
    t.settle().await;
    t.uses(&ada, "calls", 1, "k3").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 5_232);
    assert_eq!(t.incidents().await, ["foreign_lines"]);
    assert_eq!(t.audited("draft.foreign_lines").await, 1);
    t.in_step(&ada).await;
    close(&t).await;
    let sealed = t.sealed(&ada).await;
    assert_eq!((sealed.len(), sealed[0].total), (1, 5_232));
    assert_eq!(t.draft_total(&ada).await, 0);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_draft_with_only_lines_of_others_is_finalized_not_rolled() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.settle().await;
    add_a_line(&t, &ada, 5_000).await;
    t.settle().await;
    close(&t).await;
    assert_eq!(t.sealed(&ada).await.iter().map(|invoice| invoice.total).collect::<Vec<_>>(), [5_000]);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_deleted_draft_is_opened_again_and_its_items_never_bill() {
    for reported in [true, false] {
        let (t, ada) = with_ada().await;
        if !reported {
            t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
        }
        delete_the_draft(&t, &ada).await;
        t.uses(&ada, "calls", 1, "k3").await;
        t.settle().await;
        assert_eq!(t.draft_total(&ada).await, 232);
        let customer = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
        let pending = t.all(&format!("/invoiceitems?customer={customer}&pending=true&limit=100")).await;
        assert!(pending.is_empty(), "would bill later: {pending:?}");
        assert_eq!(
            (t.incidents().await, t.audited("draft.deleted").await),
            (vec!["draft_deleted".to_owned()], 1)
        );
        close(&t).await;
        assert_eq!(t.billed(&ada).await, 232);
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn a_sweep_that_dies_half_way_is_finished() {
    for fault in [Fault::LoseAnswer, Fault::DropBefore] {
        let (t, ada) = with_ada().await;
        delete_the_draft(&t, &ada).await;
        t.sandbox.faults().next("DELETE /v1/invoiceitems", fault);
        t.recover().await;
        let pending = t.all("/invoiceitems?pending=true&limit=100").await;
        assert!(pending.is_empty(), "would bill later: {pending:?}");
        close(&t).await;
        assert_eq!(t.billed(&ada).await, 230);
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn a_draft_deleted_after_its_cycle_is_opened_again_and_closed() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T00:30:00Z");
    delete_the_draft(&t, &ada).await;
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 230);
    assert_eq!(t.sealed(&ada).await[0].cycle, "2026-11-01");
    t.in_step(&ada).await;
}

#[tokio::test]
async fn an_edit_that_was_finalized_by_hand_is_respected_and_shown() {
    let (t, ada) = with_ada().await;
    edit_the_calls(&t, &ada, 150).await;
    by_hand(&t, &ada, "/finalize", "").await;
    t.settle().await;
    let sealed = t.sealed(&ada).await;
    assert_eq!((sealed.len(), sealed[0].total), (1, 180));
    assert_eq!(t.draft_total(&ada).await, 0, "an override is never charged again by itself");
    assert_eq!(t.incidents().await, ["finalized_early", "line_overridden"]);
    assert_eq!(t.audited("invoice.overridden").await, 1);
    close(&t).await;
    assert_eq!(t.sealed(&ada).await.len(), 1);
}

/// Somebody changes the draft in its grace period, Stripe is away until they have finalized it, and then it is sealed.
async fn changed_and_finalized_before_it_could_be_put_back(
    t: &Tab,
    ada: &Customer,
    put_back: &str,
    by: Fault,
) {
    t.sandbox.faults().next(put_back, by);
    t.deliver().await;
    t.work().await;
    by_hand(t, ada, "/finalize", "").await;
    t.recover().await;
}

#[tokio::test]
async fn a_change_that_was_read_and_finalized_before_it_was_put_back_is_respected() {
    const UPDATE: &str = "POST /v1/invoices/{invoice}/update_lines";
    const ADD: &str = "POST /v1/invoices/{invoice}/add_lines";
    for (put_back, at_stripe) in [(UPDATE, 180), (ADD, 200)] {
        let (t, ada) = with_ada().await;
        t.at("2026-12-01T00:30:00Z");
        match put_back {
            UPDATE => edit_the_calls(&t, &ada, 150).await,
            _ => remove_the_mails(&t, &ada).await,
        }
        changed_and_finalized_before_it_could_be_put_back(&t, &ada, put_back, Fault::DropBefore).await;
        assert_eq!(t.sealed(&ada).await[0].total, at_stripe);
        assert_eq!(t.draft_total(&ada).await, 0, "an override is never charged again by itself");
        assert_eq!(t.audited("invoice.overridden").await, 1);
        let expected = ["draft_edited", "finalized_early", "line_overridden"];
        assert_eq!(t.incidents().await, expected);
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn what_was_put_back_without_an_answer_and_then_finalized_is_no_override() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T00:30:00Z");
    edit_the_calls(&t, &ada, 150).await;
    let put_back = "POST /v1/invoices/{invoice}/update_lines";
    changed_and_finalized_before_it_could_be_put_back(&t, &ada, put_back, Fault::LoseAnswer).await;
    assert_eq!(t.billed(&ada).await, 230);
    assert_eq!((t.audited("invoice.overridden").await, t.draft_total(&ada).await), (0, 0));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_line_that_was_put_back_is_no_override_later() {
    let (t, ada) = with_ada().await;
    edit_the_calls(&t, &ada, 150).await;
    remove_the_mails(&t, &ada).await;
    t.settle().await;
    t.uses(&ada, "mails", -10, "k3").await;
    t.settle().await;
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 200);
    assert_eq!(t.audited("invoice.overridden").await, 0);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_draft_that_somebody_finalized_is_told_of_whenever_it_was() {
    for (at, kind) in
        [("2026-11-20T00:00:00Z", "finalized_early"), ("2026-12-01T01:00:00Z", "finalized_by_hand")]
    {
        let (t, ada) = with_ada().await;
        t.at(at);
        by_hand(&t, &ada, "/finalize", "").await;
        t.settle().await;
        assert_eq!((t.incidents().await, t.billed(&ada).await), (vec![kind.to_owned()], 230));
        assert_eq!(t.audited("invoice.finalized_by_hand").await, 1);
    }
    let (t, ada) = with_ada().await;
    close(&t).await;
    assert_eq!((t.billed(&ada).await, t.incidents().await), (230, Vec::new()));
    assert_eq!(t.audited("invoice.finalized_by_hand").await, 0);
}

#[tokio::test]
async fn another_currency_at_stripe_is_shown_and_changes_no_draft() {
    let (t, ada) = with_ada().await;
    let id = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
    let hear = async |event: &str, currency: &str| {
        let object = serde_json::json!({ "id": id, "object": "customer", "currency": currency });
        let event = serde_json::json!({
            "id": event, "object": "event", "type": "customer.updated", "created": 1_793_000_000, "livemode": false,
            "data": { "object": object },
        });
        let payload = event.to_string();
        let read = opentab_webhooks::read(payload.as_bytes()).unwrap();
        opentab::internals::workflows::receive::receive(&t.app, &read, &payload).await.unwrap();
        t.settle().await;
    };
    hear("evt_1", "eur").await;
    assert_eq!(t.incidents().await, ["currency_changed"]);
    assert_eq!(t.audited("customer.currency_changed").await, 1);
    t.uses(&ada, "calls", 1, "k3").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 232);
    hear("evt_2", "usd").await;
    assert!(t.incidents().await.is_empty(), "it is ours again");
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 232);
}

#[tokio::test]
async fn a_voided_invoice_stays_billed() {
    let (t, ada) = with_ada().await;
    by_hand(&t, &ada, "/finalize", "").await;
    by_hand(&t, &ada, "/void", "").await;
    t.settle().await;
    let sealed = t.sealed(&ada).await;
    assert_eq!((sealed.len(), sealed[0].state.as_str()), (1, "void"));
    assert_eq!(t.draft_total(&ada).await, 0);
    assert_eq!(t.incidents().await, ["finalized_early", "invoice_voided"]);
    close(&t).await;
    assert_eq!(t.sealed(&ada).await.len(), 1);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn an_invoice_voided_after_it_was_sealed_is_told_of() {
    let (t, ada) = with_ada().await;
    close(&t).await;
    let id = t.sealed(&ada).await.remove(0).stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/void"), "").await;
    t.settle().await;
    assert_eq!(
        (t.incidents().await, t.audited("invoice.state").await),
        (vec!["invoice_voided".to_owned()], 1)
    );
    assert_eq!((t.sealed(&ada).await[0].state.as_str(), t.draft_total(&ada).await), ("void", 0));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_line_that_is_there_twice_is_charged_once() {
    let (t, ada) = with_ada().await;
    let key = t.items(&ada).await.remove(0).item_key;
    let twin = format!("lines[0][amount]=200&lines[0][description]=x&lines[0][metadata][opentab_item]={key}");
    by_hand(&t, &ada, "/add_lines", &twin).await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 230);
    close(&t).await;
    assert_eq!(t.billed(&ada).await, 230);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn usage_of_a_customer_deleted_at_stripe_is_kept_and_nothing_is_synced() {
    let (t, ada) = with_ada().await;
    let id = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
    t.stripe("DELETE", &format!("/customers/{id}"), "").await;
    t.settle().await;
    t.sandbox.reset_calls();
    t.uses(&ada, "calls", 1, "k3").await;
    t.settle().await;
    assert_eq!(t.writes(), [""; 0]);
    assert_eq!(t.incidents().await, ["customer_gone_at_stripe"]);
    assert_eq!(t.audited("customer.gone_at_stripe").await, 1);
    assert!(t.jobs("failed").await.is_empty());
}

#[tokio::test]
async fn a_customer_who_is_linked_anew_is_billed_for_everything_there() {
    let (t, ada) = with_ada().await;
    let id = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
    t.stripe("DELETE", &format!("/customers/{id}"), "").await;
    t.settle().await;
    t.uses(&ada, "calls", 1, "k3").await;
    let other = t.stripe("POST", "/customers", "name=Ada").await["id"].as_str().unwrap().to_owned();
    let change = CustomerChange { stripe_customer_id: Some(other.clone()), ..CustomerChange::default() };
    let linked = customers::update(&t.app, &ada.id, change, &By::operator()).await.unwrap();
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 232);
    close(&t).await;
    assert_eq!((t.billed(&ada).await, t.incidents().await), (232, Vec::new()));
    let change = CustomerChange { stripe_customer_id: Some(id), ..CustomerChange::default() };
    assert!(customers::update(&t.app, &linked.id, change, &By::operator()).await.is_err());
}

#[tokio::test]
async fn what_was_finalized_before_its_customer_was_deleted_is_not_billed_again_to_the_next_one() {
    let (t, ada) = with_ada().await;
    let id = t.app.store.customer(&ada.id).await.unwrap().unwrap().stripe_customer_id.unwrap();
    by_hand(&t, &ada, "/finalize", "auto_advance=false").await;
    t.stripe("DELETE", &format!("/customers/{id}"), "").await;
    t.settle().await;
    let other = t.stripe("POST", "/customers", "name=Ada").await["id"].as_str().unwrap().to_owned();
    let change = CustomerChange { stripe_customer_id: Some(other), ..CustomerChange::default() };
    customers::update(&t.app, &ada.id, change, &By::operator()).await.unwrap();
    t.uses(&ada, "calls", 1, "k3").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 2);
    assert_eq!(t.billed(&ada).await, 230);
}
