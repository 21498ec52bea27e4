//! Payments: payment methods with Stripe's test cards, and what a charge comes to.

use serde_json::{Value, json};

use super::customers::not_theirs;
use super::errors::{Answer, ApiError};
use super::fault::Fault;
use super::pages::{self, page};
use super::params::{EXPAND, Kind, PAGE, Param, optional, required};
use super::router::{Asked, Operation, get, post};
use super::state::{State, token};

/// What a charge of a card comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardOutcome {
    /// The charge is paid at once.
    Succeeds,
    /// `card_declined` with this decline code.
    Declined(&'static str),
    /// The card has expired: `expired_card`.
    Expired,
    /// The bank wants the customer in front of a screen (SCA).
    NeedsAction,
    /// It cannot pay in the invoice's currency.
    WrongCurrency,
    /// A transfer that takes days: taken, and not paid before [`super::Sandbox::end_transfer`].
    Processes,
}

/// What a charge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charged {
    Paid,
    Processing,
}

impl CardOutcome {
    fn of_code(code: &'static str) -> Self {
        match code {
            "expired_card" => Self::Expired,
            "authentication_required" => Self::NeedsAction,
            code => Self::Declined(code),
        }
    }
}

/// A payment method and how it behaves.
#[derive(Debug, Clone)]
pub(super) struct Method {
    pub object: Value,
    pub outcome: CardOutcome,
}

/// A test card: its id, brand, last four digits, whether it can be attached, and what charging it comes to.
struct TestCard(&'static str, &'static str, &'static str, bool, CardOutcome);

const TEST_CARDS: &[TestCard] = &[
    TestCard("pm_card_visa", "visa", "4242", true, CardOutcome::Succeeds),
    TestCard("pm_card_visa_debit", "visa", "5556", true, CardOutcome::Succeeds),
    TestCard("pm_card_mastercard", "mastercard", "4444", true, CardOutcome::Succeeds),
    TestCard("pm_card_amex", "amex", "8431", true, CardOutcome::Succeeds),
    // Can be attached, and fails when it is charged: what dunning is tested with.
    TestCard("pm_card_chargeCustomerFail", "visa", "0341", true, CardOutcome::Declined("generic_decline")),
    TestCard("pm_card_authenticationRequired", "visa", "3184", true, CardOutcome::NeedsAction),
    // Declined already when they are attached.
    TestCard("pm_card_chargeDeclined", "visa", "0002", false, CardOutcome::Declined("generic_decline")),
    TestCard("pm_card_visa_chargeDeclined", "visa", "0002", false, CardOutcome::Declined("generic_decline")),
    TestCard(
        "pm_card_chargeDeclinedInsufficientFunds",
        "visa",
        "9995",
        false,
        CardOutcome::Declined("insufficient_funds"),
    ),
    TestCard(
        "pm_card_visa_chargeDeclinedInsufficientFunds",
        "visa",
        "9995",
        false,
        CardOutcome::Declined("insufficient_funds"),
    ),
    TestCard(
        "pm_card_visa_chargeDeclinedLostCard",
        "visa",
        "9987",
        false,
        CardOutcome::Declined("lost_card"),
    ),
    TestCard("pm_card_chargeDeclinedExpiredCard", "visa", "0069", false, CardOutcome::Expired),
];

/// One payment of one invoice.
#[derive(Debug, Clone)]
pub(super) struct Payment {
    pub id: String,
    pub invoice: String,
    pub amount: i64,
    pub currency: String,
    pub created: i64,
    pub paid_at: Option<i64>,
    pub canceled_at: Option<i64>,
    /// A transfer is on its way.
    pub processing: bool,
    /// What the last try came to; null where none failed.
    pub last_error: Value,
}

impl Payment {
    /// Of the payment itself, `pi_…`.
    pub(crate) fn intent_id(&self) -> String {
        format!("pi_3{}", token(&self.id, 23))
    }

    /// The payment itself.
    pub(crate) fn render_intent(&self, livemode: bool) -> Value {
        let asks = self.last_error["code"] == "invoice_payment_intent_requires_action";
        let status = match (self.paid_at, self.canceled_at) {
            (Some(_), _) => "succeeded",
            (None, Some(_)) => "canceled",
            (None, None) if self.processing => "processing",
            (None, None) if asks => "requires_action",
            (None, None) => "requires_payment_method",
        };
        json!({
            "id": self.intent_id(), "object": "payment_intent", "amount": self.amount, "created": self.created,
            "currency": self.currency, "last_payment_error": self.last_error, "livemode": livemode, "status": status,
        })
    }

    pub(crate) fn render(&self, livemode: bool) -> Value {
        let status = match (self.paid_at, self.canceled_at) {
            (Some(_), _) => "paid",
            (None, Some(_)) => "canceled",
            (None, None) => "open",
        };
        json!({
            "id": self.id, "object": "invoice_payment", "amount_paid": self.paid_at.map(|_| self.amount),
            "amount_requested": self.amount, "created": self.created, "currency": self.currency,
            "invoice": self.invoice, "is_default": true, "livemode": livemode,
            "payment": { "type": "payment_intent", "payment_intent": self.intent_id() },
            "status": status,
            "status_transitions": { "canceled_at": self.canceled_at, "paid_at": self.paid_at },
        })
    }

    fn status_is(&self, wanted: Option<&str>) -> bool {
        let status = self.render(false)["status"].clone();
        wanted.is_none_or(|wanted| status == wanted)
    }
}

const LIST: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("customer", Kind::Id),
    optional("customer_account", Kind::NotPlayed),
    optional("type", Kind::Id),
    optional("allow_redisplay", Kind::NotPlayed),
];
const LIST_OF_CUSTOMER: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("type", Kind::Id),
    optional("allow_redisplay", Kind::NotPlayed),
];
const ATTACH: &[Param] =
    &[EXPAND, required("customer", Kind::Id), optional("customer_account", Kind::NotPlayed)];
const LIST_PAYMENTS: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("invoice", Kind::Id),
    optional("status", Kind::OneOf(&["canceled", "open", "paid"])),
    optional("created", Kind::Range),
    optional("payment", Kind::NotPlayed),
];

pub(super) const OPERATIONS: &[Operation] = &[
    get("/v1/payment_methods", LIST, list),
    get("/v1/payment_methods/{payment_method}", &[EXPAND], retrieve),
    post("/v1/payment_methods/{payment_method}/attach", ATTACH, attach),
    post("/v1/payment_methods/{payment_method}/detach", &[EXPAND], detach),
    get("/v1/customers/{customer}/payment_methods", LIST_OF_CUSTOMER, list_of_customer),
    get("/v1/invoice_payments", LIST_PAYMENTS, list_payments),
    get("/v1/invoice_payments/{invoice_payment}", &[EXPAND], retrieve_payment),
];

impl State {
    /// A method that can be attached: one of Stripe's test cards, or one that exists.
    pub(crate) fn usable_method(&mut self, id: &str) -> Result<Method, ApiError> {
        let Some(card) = TEST_CARDS.iter().find(|card| card.0 == id) else {
            let known = self.payment_methods.get(id).cloned();
            return known.ok_or_else(|| no_such_method(id, "payment_method"));
        };
        let method = Method { object: self.card(card), outcome: card.4 };
        if card.3 { Ok(method) } else { Err(refusal(&method)) }
    }

    fn card(&mut self, TestCard(_, brand, last4, _, _): &TestCard) -> Value {
        let id = self.new_id("pm");
        json!({
            "id": id, "object": "payment_method", "allow_redisplay": "unspecified",
            "billing_details": { "address": null, "email": null, "name": null, "phone": null, "tax_id": null },
            "card": {
                "brand": brand, "checks": null, "country": "US", "display_brand": brand, "exp_month": 12,
                "exp_year": 2040, "fingerprint": token(last4, 16), "funding": "credit", "generated_from": null,
                "last4": last4, "networks": { "available": [brand], "preferred": null },
                "regulated_status": "unregulated", "three_d_secure_usage": { "supported": true }, "wallet": null,
            },
            "created": self.now(), "customer": null, "customer_account": null, "livemode": self.livemode,
            "metadata": {}, "type": "card",
        })
    }

    /// Gives `method` to `customer`.
    pub(crate) fn attach(&mut self, mut method: Method, customer: &str) -> Answer {
        let owner = method.object["customer"].as_str();
        if owner.is_some_and(|owner| owner != customer) {
            return Err(ApiError::invalid("The payment method is already attached to another customer."));
        }
        method.object["customer"] = json!(customer);
        let shown = method.object.clone();
        self.payment_methods.insert(shown["id"].as_str().unwrap_or_default(), method);
        self.emit("payment_method.attached", shown.clone(), None);
        Ok(shown)
    }

    /// The method `id`, if it is attached to `customer`.
    pub(crate) fn method_of(&self, id: &str, customer: &str) -> Option<&Method> {
        self.payment_methods.get(id).filter(|method| method.object["customer"] == customer)
    }

    /// The payments of an invoice as a list.
    pub(crate) fn payments_of(&self, invoice: &str) -> Value {
        let payment =
            self.invoices.get(invoice).and_then(|invoice| self.payments.get(invoice.payment.as_deref()?));
        let data: Vec<Value> = payment.iter().map(|payment| payment.render(self.livemode)).collect();
        json!({ "object": "list", "data": data, "has_more": false, "url": "/v1/invoice_payments" })
    }

    /// What charging `method` (or the default) for an invoice of `customer` comes to.
    pub(crate) fn charge(&self, customer: &str, method: Option<&str>) -> Result<Charged, ApiError> {
        self.customer(customer, "customer")?;
        let Some(id) = method else {
            let message = "There is no `default_payment_method` set on this Customer or Invoice.";
            return Err(ApiError::invalid(message));
        };
        let method = self.method_of(id, customer).ok_or_else(|| not_theirs(id, "payment_method"))?;
        if let Some(Fault::Decline { code }) = self.fault {
            return Err(refusal(&Method { outcome: CardOutcome::of_code(code), ..method.clone() }));
        }
        match method.outcome {
            CardOutcome::Succeeds => Ok(Charged::Paid),
            CardOutcome::Processes => Ok(Charged::Processing),
            _ => Err(refusal(method)),
        }
    }
}

fn refusal(method: &Method) -> ApiError {
    let object = method.object.clone();
    match method.outcome {
        CardOutcome::Expired => {
            ApiError::declined("expired_card", Some("expired_card"), "Your card has expired.", object)
        }
        CardOutcome::NeedsAction => ApiError::declined(
            "invoice_payment_intent_requires_action",
            None,
            "This payment needs the customer's authentication before it can complete.",
            object,
        ),
        CardOutcome::Declined("insufficient_funds") => ApiError::declined(
            "card_declined",
            Some("insufficient_funds"),
            "Your card has insufficient funds.",
            object,
        ),
        CardOutcome::Declined(code) => {
            ApiError::declined("card_declined", Some(code), "Your card was declined.", object)
        }
        CardOutcome::WrongCurrency => {
            let message = "The payment method cannot be used with the invoice's currency.";
            ApiError::invalid(message).code("payment_method_currency_mismatch").param("payment_method")
        }
        CardOutcome::Succeeds | CardOutcome::Processes => ApiError::api(500, None),
    }
}

fn no_such_method(id: &str, param: &str) -> ApiError {
    ApiError::not_found("PaymentMethod", id, param)
}

fn attach(state: &mut State, asked: &Asked) -> Answer {
    let customer = asked.params.required("customer")?.to_owned();
    state.customer(&customer, "customer")?;
    let method = state.usable_method(asked.id())?;
    state.attach(method, &customer)
}

fn detach(state: &mut State, asked: &Asked) -> Answer {
    let method = state.payment_methods.get_mut(asked.id());
    let method = method.ok_or_else(|| no_such_method(asked.id(), "payment_method"))?;
    if method.object["customer"].is_null() {
        return Err(ApiError::invalid("The payment method is not attached to a customer."));
    }
    let customer = std::mem::take(&mut method.object["customer"]);
    let shown = method.object.clone();
    state.emit("payment_method.detached", shown.clone(), Some(json!({ "customer": customer })));
    Ok(shown)
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    let method = state.payment_methods.get(asked.id());
    Ok(method.ok_or_else(|| no_such_method(asked.id(), "payment_method"))?.object.clone())
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let customer = asked.params.text("customer").map(str::to_owned);
    list_methods(state, asked, customer.as_deref(), "/v1/payment_methods")
}

fn list_of_customer(state: &mut State, asked: &Asked) -> Answer {
    state.customer(asked.id(), "customer").map_err(|error| error.status(404))?;
    let url = format!("/v1/customers/{}/payment_methods", asked.id());
    list_methods(state, asked, Some(asked.id()), &url)
}

fn list_methods(state: &State, asked: &Asked, customer: Option<&str>, url: &str) -> Answer {
    let wanted = |method: &Method| {
        customer.is_some_and(|customer| method.object["customer"] == customer)
            && pages::is(&asked.params, "type", method.object["type"].as_str())
    };
    let rows = state.payment_methods.newest_first().filter(|(_, method)| wanted(method));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, &asked.params, url, "PaymentMethod", |id| state.object(id).unwrap_or_default())
}

fn list_payments(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let wanted = |payment: &Payment| {
        pages::is(params, "invoice", Some(&payment.invoice))
            && payment.status_is(params.text("status"))
            && pages::in_range(params, "created", Some(payment.created))
    };
    let rows = state.payments.newest_first().filter(|(_, payment)| wanted(payment));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    let render =
        |id: &str| state.payments.get(id).map_or(Value::Null, |payment| payment.render(state.livemode));
    page(&ids, params, "/v1/invoice_payments", "invoice payment", render)
}

fn retrieve_payment(state: &mut State, asked: &Asked) -> Answer {
    let payment = state.payments.get(asked.id());
    let payment =
        payment.ok_or_else(|| ApiError::not_found("invoice payment", asked.id(), "invoice_payment"))?;
    Ok(payment.render(state.livemode))
}
