//! Invoices: from draft to open to paid, void or uncollectible.

use serde_json::{Map, Value, json};

use super::currencies::minimum_charge;
use super::customers::{Customer, not_theirs};
use super::errors::{Answer, ApiError};
use super::invoice_items::Item;
use super::lines::too_many;
use super::pages::{self, page};
use super::params::{EXPAND, Kind, METADATA, PAGE, Param, Params, both, optional, required};
use super::payments::{Charged, Payment};
use super::router::{Asked, Operation, delete, get, post};
use super::state::{ACCOUNT, State, merge_metadata, previous_attributes, text_or_null, token};

const DAY_S: i64 = 24 * 3600;
/// How long a draft with `auto_advance` waits; recorded.
const GRACE_S: i64 = 3601;
const FIVE_YEARS_S: i64 = 5 * 366 * DAY_S;
/// Waits between automatic attempts to charge.
const RETRIES_S: &[i64] = &[3 * DAY_S, 5 * DAY_S, 7 * DAY_S];
const EMBEDDED_LINES: usize = 10;
const LARGEST_TOTAL: i64 = 999_999_999_999;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Draft,
    Open,
    Paid,
    Uncollectible,
    Void,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Uncollectible => "uncollectible",
            Self::Void => "void",
        }
    }
}

/// One invoice.
#[derive(Debug, Clone)]
pub(super) struct Invoice {
    id: String,
    pub customer: String,
    pub currency: String,
    status: Status,
    created: i64,
    /// Ids of items, in the order of the lines.
    pub lines: Vec<String>,
    pub metadata: Map<String, Value>,
    /// Settings that are shown as they were given.
    settings: Map<String, Value>,
    send_invoice: bool,
    due_date: Option<i64>,
    auto_advance: bool,
    automatically_finalizes_at: Option<i64>,
    next_payment_attempt: Option<i64>,
    attempt_count: i64,
    attempted: bool,
    amount_paid: i64,
    paid_off_stripe: i64,
    effective_at: Option<i64>,
    transitions: Transitions,
    webhooks_delivered_at: Option<i64>,
    last_finalization_error: Value,
    /// The payment that finalization asked for.
    pub payment: Option<String>,
    /// What finalization settled.
    sealed: Option<Sealed>,
}

#[derive(Debug, Clone, Default)]
struct Transitions {
    finalized_at: Option<i64>,
    paid_at: Option<i64>,
    voided_at: Option<i64>,
    marked_uncollectible_at: Option<i64>,
}

/// What does not change any more once an invoice is finalized.
#[derive(Debug, Clone)]
struct Sealed {
    number: String,
    amount_due: i64,
    starting_balance: i64,
    ending_balance: i64,
    customer: Value,
}

impl Invoice {
    pub(crate) fn is_draft(&self) -> bool {
        self.status == Status::Draft
    }

    /// The invoice as Stripe shows it, with its first ten lines.
    pub(crate) fn render(&self, state: &State) -> Value {
        let customer = state.customers.get(&self.customer);
        let total = self.total(state);
        let mut shown = self.settings.clone();
        let parts = [self.identity(state), self.money(customer, total), self.times(), self.constants(state)];
        for part in parts {
            if let Value::Object(part) = part {
                shown.extend(part);
            }
        }
        let about = self.sealed.as_ref().map(|sealed| sealed.customer.clone());
        let about = about.unwrap_or_else(|| customer.map_or(Value::Null, customer_copy));
        if let Value::Object(about) = about {
            shown.extend(about);
        }
        shown.insert("lines".into(), self.embedded_lines(state));
        Value::Object(shown)
    }

    fn total(&self, state: &State) -> i64 {
        self.lines.iter().filter_map(|id| state.items.get(id)).map(|item| item.amount).sum()
    }

    fn embedded_lines(&self, state: &State) -> Value {
        let items = self.lines.iter().take(EMBEDDED_LINES).filter_map(|id| state.items.get(id));
        let mut list = json!({
            "object": "list", "has_more": self.lines.len() > EMBEDDED_LINES,
            "total_count": self.lines.len(), "url": format!("/v1/invoices/{}/lines", self.id),
        });
        list["data"] = items.map(|item| item.render_line(state.livemode)).collect();
        list
    }

    fn identity(&self, state: &State) -> Value {
        let method = if self.send_invoice { "send_invoice" } else { "charge_automatically" };
        let number = self.sealed.as_ref().map(|sealed| sealed.number.clone());
        let mode = if state.livemode { "live" } else { "test" };
        let link = format!("https://invoice.stripe.com/i/{ACCOUNT}/{mode}_{}", token(&self.id, 40));
        json!({
            "id": self.id, "object": "invoice", "customer": self.customer, "currency": self.currency,
            "status": self.status.name(), "collection_method": method, "metadata": self.metadata,
            "number": number.or_else(|| self.settings.get("number")?.as_str().map(str::to_owned)),
            "hosted_invoice_url": self.sealed.as_ref().map(|_| format!("{link}?s=ap")),
            "invoice_pdf": self.sealed.as_ref().map(|_| {
                format!("{}/invoice/{ACCOUNT}/{mode}_{}/pdf?s=ap", state.files, token(&self.id, 40))
            }),
            "livemode": state.livemode, "auto_advance": self.auto_advance,
            "attempt_count": self.attempt_count, "attempted": self.attempted,
            "last_finalization_error": self.last_finalization_error,
        })
    }

    fn money(&self, customer: Option<&Customer>, total: i64) -> Value {
        let balance = customer.map_or(0, |customer| customer.balance(&self.currency));
        let due = self.sealed.as_ref().map_or((total + balance).max(0), |sealed| sealed.amount_due);
        let remaining = if self.status == Status::Paid { 0 } else { due - self.amount_paid };
        json!({
            "amount_due": due, "amount_overpaid": 0, "amount_paid": self.amount_paid,
            "amount_paid_off_stripe": self.paid_off_stripe, "amount_remaining": remaining, "amount_shipping": 0,
            "starting_balance": self.sealed.as_ref().map_or(balance, |sealed| sealed.starting_balance),
            "ending_balance": self.sealed.as_ref().map(|sealed| sealed.ending_balance),
            "subtotal": total, "subtotal_excluding_tax": total, "total": total, "total_excluding_tax": total,
            "post_payment_credit_notes_amount": 0, "pre_payment_credit_notes_amount": 0,
        })
    }

    fn times(&self) -> Value {
        json!({
            "automatically_finalizes_at": self.automatically_finalizes_at, "created": self.created,
            "due_date": self.due_date, "effective_at": self.effective_at,
            "next_payment_attempt": self.next_payment_attempt, "period_end": self.created,
            "period_start": self.created,
            "status_transitions": {
                "finalized_at": self.transitions.finalized_at,
                "marked_uncollectible_at": self.transitions.marked_uncollectible_at,
                "paid_at": self.transitions.paid_at, "voided_at": self.transitions.voided_at,
            },
            "webhooks_delivered_at": self.webhooks_delivered_at,
        })
    }

    /// What the sandbox never plays.
    fn constants(&self, state: &State) -> Value {
        let types =
            self.settings.get("payment_settings").and_then(|settings| settings.get("payment_method_types"));
        json!({
            "account_country": "US", "account_name": "Sandbox", "account_tax_ids": null, "application": null,
            "automatic_tax": {
                "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null
            },
            "billing_reason": "manual", "confirmation_secret": null, "default_source": null, "default_tax_rates": [],
            "discounts": [], "from_invoice": null, "issuer": { "type": "self" }, "latest_revision": null,
            "on_behalf_of": null, "parent": null,
            "payment_settings": {
                "default_mandate": null, "payment_method_options": null, "payment_method_types": types
            },
            "receipt_number": null, "rendering": null, "shipping_cost": null, "shipping_details": null,
            "test_clock": null, "total_discount_amounts": [], "total_pretax_credit_amounts": [], "total_taxes": [],
            "livemode": state.livemode,
        })
    }
}

/// What an invoice copies from its customer.
fn customer_copy(customer: &Customer) -> Value {
    json!({
        "customer_account": null, "customer_address": customer.field("address"),
        "customer_email": customer.field("email"), "customer_name": customer.field("name"),
        "customer_phone": customer.field("phone"), "customer_shipping": customer.field("shipping"),
        "customer_tax_exempt": if customer.deleted { json!("none") } else { customer.field("tax_exempt") },
        "customer_tax_ids": [],
    })
}

const CUSTOM_FIELD: &[Param] = &[required("name", Kind::Text(40)), required("value", Kind::Text(140))];
const PAYMENT_SETTINGS: &[Param] = &[
    optional("payment_method_types", Kind::Clearable(&Kind::List(&Kind::Id))),
    optional("default_mandate", Kind::NotPlayed),
    optional("payment_method_options", Kind::NotPlayed),
];
const COLLECTION_METHOD: Kind = Kind::OneOf(&["charge_automatically", "send_invoice"]);
const UPDATE: [Param; 27] = [
    EXPAND,
    METADATA,
    optional("auto_advance", Kind::Boolean),
    optional("automatically_finalizes_at", Kind::Time),
    optional("collection_method", COLLECTION_METHOD),
    optional("custom_fields", Kind::Clearable(&Kind::List(&Kind::Object(CUSTOM_FIELD)))),
    optional("days_until_due", Kind::Integer),
    optional("default_payment_method", Kind::Id),
    optional("description", Kind::Text(1500)),
    optional("due_date", Kind::Time),
    optional("effective_at", Kind::Clearable(&Kind::Time)),
    optional("footer", Kind::Text(5000)),
    optional("number", Kind::Text(26)),
    optional("payment_settings", Kind::Object(PAYMENT_SETTINGS)),
    optional("statement_descriptor", Kind::Text(22)),
    optional("account_tax_ids", Kind::Clearable(&Kind::NotPlayed)),
    optional("application_fee_amount", Kind::NotPlayed),
    optional("automatic_tax", Kind::NotPlayed),
    optional("default_source", Kind::NotPlayed),
    optional("default_tax_rates", Kind::NotPlayed),
    optional("discounts", Kind::Clearable(&Kind::NotPlayed)),
    optional("issuer", Kind::NotPlayed),
    optional("on_behalf_of", Kind::NotPlayed),
    optional("rendering", Kind::NotPlayed),
    optional("shipping_cost", Kind::NotPlayed),
    optional("shipping_details", Kind::NotPlayed),
    optional("transfer_data", Kind::NotPlayed),
];
const CREATE: &[Param] = &both::<33>(
    &UPDATE,
    &[
        required("customer", Kind::Id),
        optional("currency", Kind::Currency),
        optional("customer_account", Kind::NotPlayed),
        optional("from_invoice", Kind::NotPlayed),
        optional("pending_invoice_items_behavior", Kind::OneOf(&["include", "exclude"])),
        optional("subscription", Kind::NotPlayed),
    ],
);
const LIST: &[Param] = &[
    PAGE[0],
    PAGE[1],
    PAGE[2],
    PAGE[3],
    optional("collection_method", COLLECTION_METHOD),
    optional("created", Kind::Range),
    optional("due_date", Kind::Range),
    optional("customer", Kind::Id),
    optional("customer_account", Kind::NotPlayed),
    optional("status", Kind::OneOf(&["draft", "open", "paid", "uncollectible", "void"])),
    optional("subscription", Kind::NotPlayed),
];
const FINALIZE: &[Param] = &[EXPAND, optional("auto_advance", Kind::Boolean)];
const PAY: &[Param] = &[
    EXPAND,
    optional("forgive", Kind::Boolean),
    optional("off_session", Kind::Boolean),
    optional("paid_out_of_band", Kind::Boolean),
    optional("payment_method", Kind::Id),
    optional("mandate", Kind::NotPlayed),
    optional("source", Kind::NotPlayed),
];

pub(super) const OPERATIONS: &[Operation] = &[
    post("/v1/invoices", CREATE, create),
    get("/v1/invoices", LIST, list),
    get("/v1/invoices/{invoice}", &[EXPAND], retrieve),
    post("/v1/invoices/{invoice}", &UPDATE, update),
    delete("/v1/invoices/{invoice}", remove),
    post("/v1/invoices/{invoice}/finalize", FINALIZE, finalize),
    post("/v1/invoices/{invoice}/pay", PAY, pay),
    post("/v1/invoices/{invoice}/send", &[EXPAND], send),
    post("/v1/invoices/{invoice}/void", &[EXPAND], void),
    post("/v1/invoices/{invoice}/mark_uncollectible", &[EXPAND], mark_uncollectible),
];

impl State {
    fn invoice(&self, id: &str, param: &str) -> Result<&Invoice, ApiError> {
        self.invoices.get(id).ok_or_else(|| ApiError::not_found("invoice", id, param))
    }

    /// The invoice in the path, if its lines may still change.
    pub(crate) fn editable_draft(&self, id: &str, param: &str) -> Result<&Invoice, ApiError> {
        let invoice = self.invoice(id, param)?;
        if !invoice.is_draft() {
            return Err(ApiError::not_editable("This invoice is no longer editable."));
        }
        self.customer(&invoice.customer, "customer")?;
        Ok(invoice)
    }

    /// The draft that a new item of `customer` names, if there is room on it.
    pub(crate) fn draft_for_item(&self, id: &str, customer: &str) -> Result<&Invoice, ApiError> {
        let invoice = self.invoices.get(id).ok_or_else(|| ApiError::no_such("invoice", id, "invoice"))?;
        if !invoice.is_draft() {
            return Err(ApiError::not_editable("The specified invoice is no longer editable."));
        }
        if invoice.customer != customer {
            let message = "The specified invoice is for a different customer.";
            return Err(ApiError::invalid(message).param("invoice"));
        }
        if invoice.lines.len() >= self.items_cap {
            return Err(too_many(self.items_cap));
        }
        Ok(invoice)
    }

    /// Does `work`, and emits `invoice.updated` if it made a difference to the invoice.
    pub(crate) fn change_invoice(&mut self, id: &str, work: impl FnOnce(&mut State)) {
        let before = self.object(id).unwrap_or_default();
        work(self);
        let after = self.object(id).unwrap_or_default();
        if before != after {
            let previous = previous_attributes(&before, &after);
            self.emit("invoice.updated", after, Some(previous));
        }
    }

    fn edit(&mut self, id: &str, edit: impl FnOnce(&mut Invoice)) {
        self.change_invoice(id, |state| {
            if let Some(invoice) = state.invoices.get_mut(id) {
                edit(invoice);
            }
        });
    }

    fn tell(&mut self, kind: &str, id: &str) {
        if let Some(object) = self.object(id) {
            self.emit(kind, object, None);
        }
    }

    /// Every endpoint has answered 2xx to `invoice.created`.
    pub(crate) fn webhooks_delivered(&mut self, id: &str) {
        let now = self.now();
        if let Some(invoice) = self.invoices.get_mut(id) {
            invoice.webhooks_delivered_at.get_or_insert(now);
        }
    }

    /// A timer of this invoice went off: finalize or charge it, if it is still time to.
    pub(crate) fn invoice_is_due(&mut self, id: &str) {
        let now = self.now();
        let Some(invoice) = self.invoices.get(id) else { return };
        let due = |at: Option<i64>| at.is_some_and(|at| at <= now);
        // What is refused has been told by an event; there is nobody here to answer to.
        if invoice.is_draft() && due(invoice.automatically_finalizes_at) {
            let _ = self.finalize_invoice(id, None);
        } else if invoice.status == Status::Open && due(invoice.next_payment_attempt) {
            let _ = self.attempt(id, None, true);
        }
    }

    fn finalize_invoice(&mut self, id: &str, auto_advance: Option<bool>) -> Result<(), ApiError> {
        let Some(invoice) = self.invoices.get(id).cloned() else { return Ok(()) };
        let customer = self.customer(&invoice.customer, "customer")?.clone();
        let total = invoice.total(self);
        if total > LARGEST_TOTAL {
            return Err(self.finalization_failed(id));
        }
        let starting_balance = customer.balance(&invoice.currency);
        let owed = total + starting_balance;
        // Too little to charge, or credit: it goes to the balance, and nothing is due.
        let amount_due = if owed >= minimum_charge(&invoice.currency) { owed } else { 0 };
        let ending_balance = owed - amount_due;
        let chosen = invoice.settings.get("number").and_then(Value::as_str).map(str::to_owned);
        let number = chosen.unwrap_or_else(|| self.take_number(&invoice.customer));
        let customer = customer_copy(&customer);
        let sealed = Sealed { number, amount_due, starting_balance, ending_balance, customer };
        self.set_balance(&invoice.customer, &invoice.currency, ending_balance);
        self.seal(id, sealed, auto_advance);
        Ok(())
    }

    fn finalization_failed(&mut self, id: &str) -> ApiError {
        let message = "The invoice's total is larger than what can be charged.";
        let error = ApiError::invalid(message).code("amount_too_large");
        let shown = json!({
            "type": "invalid_request_error", "code": "amount_too_large", "message": message,
            "doc_url": "https://stripe.com/docs/error-codes/amount-too-large",
        });
        self.edit(id, |invoice| {
            invoice.last_finalization_error = shown;
            (invoice.auto_advance, invoice.automatically_finalizes_at) = (false, None);
        });
        self.tell("invoice.finalization_failed", id);
        error
    }

    fn seal(&mut self, id: &str, sealed: Sealed, auto_advance: Option<bool>) {
        let (now, amount_due) = (self.now(), sealed.amount_due);
        self.edit(id, |invoice| {
            invoice.status = Status::Open;
            invoice.sealed = Some(sealed);
            invoice.transitions.finalized_at = Some(now);
            invoice.effective_at = invoice.effective_at.or(Some(now));
            invoice.auto_advance = auto_advance.unwrap_or(invoice.auto_advance);
            invoice.automatically_finalizes_at = None;
            invoice.last_finalization_error = Value::Null;
            // Charged by itself, but not within this request: whoever finalizes sees it open.
            let charged = invoice.auto_advance && !invoice.send_invoice && amount_due > 0;
            invoice.next_payment_attempt = charged.then_some(now);
        });
        self.tell("invoice.finalized", id);
        if amount_due == 0 {
            return self.settle(id, 0, false);
        }
        self.request_payment(id, amount_due);
        self.wake(self.invoices.get(id).and_then(|invoice| invoice.next_payment_attempt), id);
    }

    fn request_payment(&mut self, id: &str, amount: i64) {
        let (payment, created) = (self.new_id("inpay"), self.now());
        let Some(invoice) = self.invoices.get_mut(id) else { return };
        invoice.payment = Some(payment.clone());
        let (invoice, currency) = (id.to_owned(), invoice.currency.clone());
        let id = payment.clone();
        let row = Payment {
            id,
            invoice,
            amount,
            currency,
            created,
            paid_at: None,
            canceled_at: None,
            processing: false,
            last_error: Value::Null,
        };
        self.payments.insert(&payment, row);
    }

    /// The payment that finalization asked for.
    pub(crate) fn payment_of(&self, invoice: &str) -> Option<&Payment> {
        self.payments.get(self.invoices.get(invoice)?.payment.as_deref()?)
    }

    fn edit_payment(&mut self, invoice: &str, edit: impl FnOnce(&mut Payment)) {
        let payment = self.invoices.get(invoice).and_then(|invoice| invoice.payment.clone());
        if let Some(payment) = payment.and_then(|payment| self.payments.get_mut(&payment)) {
            edit(payment);
        }
    }

    /// A transfer that was on its way has arrived, or has not.
    pub(crate) fn end_transfer(&mut self, id: &str, arrived: bool) {
        let Some(invoice) = self.invoices.get(id).cloned() else { return };
        if !self.payment_of(id).is_some_and(|payment| payment.processing) {
            return;
        }
        self.edit_payment(id, |payment| payment.processing = false);
        if arrived {
            let amount = invoice.sealed.as_ref().map_or(0, |sealed| sealed.amount_due) - invoice.amount_paid;
            return self.settle(id, amount, false);
        }
        let error = ApiError::invalid("The transfer was returned.").status(402).code("charge_declined");
        let error = self.as_charge(error);
        let shown = error.as_last_payment_error();
        self.edit_payment(id, |payment| payment.last_error = shown);
        self.attempt_failed(id, &error, false);
    }

    /// Charges an open or uncollectible invoice.
    fn attempt(&mut self, id: &str, method: Option<&str>, automatic: bool) -> Result<(), ApiError> {
        let Some(invoice) = self.invoices.get(id).cloned() else { return Ok(()) };
        let amount = invoice.sealed.as_ref().map_or(0, |sealed| sealed.amount_due) - invoice.amount_paid;
        let default = invoice.settings.get("default_payment_method").and_then(Value::as_str);
        let customer = self.customers.get(&invoice.customer);
        let theirs = customer.and_then(Customer::default_payment_method);
        let method = method.or(default).or(theirs).map(str::to_owned);
        if self.payment_of(id).is_some_and(|payment| payment.processing) {
            return Err(ApiError::invalid("This invoice's payment is already being processed."));
        }
        let charged = self.charge(&invoice.customer, method.as_deref());
        match charged {
            Ok(charged) => {
                self.edit(id, |invoice| {
                    invoice.attempted = true;
                    invoice.attempt_count += i64::from(automatic || invoice.attempt_count == 0);
                });
                match charged {
                    Charged::Paid => self.settle(id, amount, false),
                    Charged::Processing => self.edit_payment(id, |payment| payment.processing = true),
                }
                Ok(())
            }
            Err(error) => {
                let error = self.as_charge(error);
                let shown = error.as_last_payment_error();
                self.edit_payment(id, |payment| payment.last_error = shown);
                self.attempt_failed(id, &error, automatic);
                Err(error)
            }
        }
    }

    /// What a bank declined is a charge, and the error names it; a request that was not valid made none.
    fn as_charge(&mut self, error: ApiError) -> ApiError {
        match error.status {
            402 => error.charge_is(self.new_id("ch")),
            _ => error,
        }
    }

    fn attempt_failed(&mut self, id: &str, error: &ApiError, automatic: bool) {
        let now = self.now();
        let mut next = None;
        self.edit(id, |invoice| {
            invoice.attempted = true;
            // Only the first attempt and the automatic ones count.
            if automatic || invoice.attempt_count == 0 {
                let wait = usize::try_from(invoice.attempt_count).ok().and_then(|count| RETRIES_S.get(count));
                invoice.attempt_count += 1;
                next = wait.filter(|_| invoice.auto_advance).map(|wait| now + wait);
                invoice.next_payment_attempt = next;
            }
        });
        self.wake(next, id);
        if error.code.as_deref() == Some("invoice_payment_intent_requires_action") {
            self.tell("invoice.payment_action_required", id);
        }
        self.tell("invoice.payment_failed", id);
    }

    /// The invoice is paid: by `amount` through Stripe, or outside of it.
    fn settle(&mut self, id: &str, amount: i64, out_of_band: bool) {
        let now = self.now();
        self.edit(id, |invoice| {
            invoice.status = Status::Paid;
            invoice.amount_paid += amount;
            invoice.paid_off_stripe += if out_of_band { amount } else { 0 };
            invoice.attempted |= !out_of_band;
            invoice.transitions.paid_at = Some(now);
            (invoice.next_payment_attempt, invoice.auto_advance) = (None, false);
        });
        self.settle_payment(id, out_of_band);
        self.tell("invoice.paid", id);
        if !out_of_band {
            self.tell("invoice.payment_succeeded", id);
        }
    }

    fn settle_payment(&mut self, invoice: &str, canceled: bool) {
        let now = self.now();
        let payment = self.invoices.get(invoice).and_then(|invoice| invoice.payment.as_deref());
        let Some(payment) = payment.and_then(|payment| self.payments.get_mut(payment)) else { return };
        if canceled {
            payment.canceled_at = Some(now);
            return;
        }
        payment.paid_at = Some(now);
        let shown = payment.render(self.livemode);
        self.emit("invoice_payment.paid", shown, None);
    }

    fn pending_items(&self, customer: &str, currency: &str) -> Vec<String> {
        let pending =
            |item: &Item| item.invoice.is_none() && item.customer == customer && item.currency == currency;
        let rows = self.items.newest_first().filter(|(_, item)| pending(item));
        rows.map(|(id, _)| id.to_owned()).collect()
    }
}

fn create(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let customer_id = params.required("customer")?.to_owned();
    let customer = state.customer(&customer_id, "customer")?;
    let currency = params.text("currency").map_or_else(|| customer.currency(), str::to_owned);
    let now = state.now();
    let mut invoice = draft(state.new_id("in"), customer_id.clone(), currency, now);
    write(state, &mut invoice, params)?;
    let include = params.text("pending_invoice_items_behavior") == Some("include");
    let pending = if include { state.pending_items(&customer_id, &invoice.currency) } else { Vec::new() };
    if pending.len() > state.items_cap {
        return Err(too_many(state.items_cap));
    }
    let (id, currency, finalizes) =
        (invoice.id.clone(), invoice.currency.clone(), invoice.automatically_finalizes_at);
    state.invoices.insert(&id, invoice);
    for item in pending {
        if let Some(item) = state.items.get(&item).cloned() {
            state.put_on(&id, item);
        }
    }
    state.settle_currency(&customer_id, &currency);
    state.wake(finalizes, &id);
    state.tell("invoice.created", &id);
    if state.endpoints.newest_first().all(|(_, endpoint)| !endpoint.hears("invoice.created")) {
        state.webhooks_delivered(&id);
    }
    Ok(state.object(&id).unwrap_or_default())
}

fn draft(id: String, customer: String, currency: String, now: i64) -> Invoice {
    let names = [
        "description",
        "footer",
        "custom_fields",
        "statement_descriptor",
        "default_payment_method",
        "number",
    ];
    Invoice {
        id,
        customer,
        currency,
        status: Status::Draft,
        created: now,
        lines: Vec::new(),
        metadata: Map::new(),
        settings: names.into_iter().map(|name| (name.to_owned(), Value::Null)).collect(),
        send_invoice: false,
        due_date: None,
        auto_advance: false,
        automatically_finalizes_at: None,
        next_payment_attempt: None,
        attempt_count: 0,
        attempted: false,
        amount_paid: 0,
        paid_off_stripe: 0,
        effective_at: None,
        transitions: Transitions::default(),
        webhooks_delivered_at: None,
        last_finalization_error: Value::Null,
        payment: None,
        sealed: None,
    }
}

/// Writes the parameters that create and update share.
fn write(state: &State, invoice: &mut Invoice, params: &Params) -> Result<(), ApiError> {
    merge_metadata(&mut invoice.metadata, params, "metadata")?;
    write_collection(state, invoice, params)?;
    write_automation(state, invoice, params)?;
    if let Some(method) = params.text("default_payment_method") {
        if state.method_of(method, &invoice.customer).is_none() {
            return Err(not_theirs(method, "default_payment_method"));
        }
        invoice.settings.insert("default_payment_method".into(), json!(method));
    }
    for name in ["description", "footer", "statement_descriptor", "number"] {
        if params.has(name) {
            invoice.settings.insert(name.into(), text_or_null(params.text(name)));
        }
    }
    if let Some(fields) = params.value("custom_fields") {
        if fields.as_array().is_some_and(|fields| fields.len() > 4) {
            return Err(
                ApiError::invalid("An invoice can have up to 4 custom fields.").param("custom_fields")
            );
        }
        let fields = if fields.is_array() { fields.clone() } else { Value::Null };
        invoice.settings.insert("custom_fields".into(), fields);
    }
    if let Some(settings) = params.value("payment_settings") {
        invoice.settings.insert("payment_settings".into(), settings.clone());
    }
    if params.has("effective_at") {
        invoice.effective_at = params.integer("effective_at");
    }
    Ok(())
}

fn write_collection(state: &State, invoice: &mut Invoice, params: &Params) -> Result<(), ApiError> {
    let now = state.now();
    let (days, date) = (params.integer("days_until_due"), params.integer("due_date"));
    if days.is_some() && date.is_some() {
        return Err(ApiError::exclusive("due_date", "days_until_due"));
    }
    if let Some(method) = params.text("collection_method") {
        invoice.send_invoice = method == "send_invoice";
    }
    if !invoice.send_invoice {
        if days.is_some() || date.is_some() {
            let param = if days.is_some() { "days_until_due" } else { "due_date" };
            let message = format!(
                "You can only specify `{param}` if the invoice's collection method is `send_invoice`."
            );
            return Err(ApiError::invalid(message).param(param));
        }
        invoice.due_date = None;
        return Ok(());
    }
    if days.is_some_and(|days| !(0..=3650).contains(&days)) {
        let message = "Invalid integer: days_until_due is a number of days that is not negative.";
        return Err(ApiError::invalid(message).code("parameter_invalid_integer").param("days_until_due"));
    }
    if date.is_some_and(|date| date <= now) {
        let message = "Invalid timestamp: must be an integer Unix timestamp in the future.";
        return Err(ApiError::invalid(message).param("due_date"));
    }
    // Counted from when the invoice was created, not from when it is finalized.
    let due = date.or(days.map(|days| invoice.created + days * DAY_S)).or(invoice.due_date);
    if due.is_none() {
        let message =
            "With `collection_method=send_invoice` either `due_date` or `days_until_due` has to be given.";
        return Err(ApiError::invalid(message).code("parameter_missing").param("days_until_due"));
    }
    invoice.due_date = due;
    Ok(())
}

fn write_automation(state: &State, invoice: &mut Invoice, params: &Params) -> Result<(), ApiError> {
    let now = state.now();
    let at = params.integer("automatically_finalizes_at");
    if let Some(auto_advance) = params.boolean("auto_advance") {
        invoice.auto_advance = auto_advance;
    }
    if at.is_some_and(|at| at <= now || at > now + FIVE_YEARS_S) {
        let message = "`automatically_finalizes_at` must be in the future, and at most five years ahead.";
        return Err(ApiError::invalid(message).param("automatically_finalizes_at"));
    }
    if at.is_some() && !invoice.auto_advance {
        let message = "`automatically_finalizes_at` needs `auto_advance` to be true.";
        return Err(ApiError::invalid(message).param("automatically_finalizes_at"));
    }
    if invoice.is_draft() {
        let planned = at.or(invoice.automatically_finalizes_at).unwrap_or(now + GRACE_S);
        invoice.automatically_finalizes_at = invoice.auto_advance.then_some(planned);
    } else if invoice.status == Status::Open && !invoice.send_invoice {
        let attempt = invoice.next_payment_attempt.unwrap_or(now);
        invoice.next_payment_attempt = invoice.auto_advance.then_some(attempt);
    }
    Ok(())
}

fn list(state: &mut State, asked: &Asked) -> Answer {
    let params = &asked.params;
    let wanted = |invoice: &Invoice| {
        let method = if invoice.send_invoice { "send_invoice" } else { "charge_automatically" };
        pages::is(params, "customer", Some(&invoice.customer))
            && pages::is(params, "status", Some(invoice.status.name()))
            && pages::is(params, "collection_method", Some(method))
            && pages::in_range(params, "created", Some(invoice.created))
            && pages::in_range(params, "due_date", invoice.due_date)
    };
    let rows = state.invoices.newest_first().filter(|(_, invoice)| wanted(invoice));
    let ids: Vec<&str> = rows.map(|(id, _)| id).collect();
    page(&ids, params, "/v1/invoices", "invoice", |id| state.object(id).unwrap_or_default())
}

fn retrieve(state: &mut State, asked: &Asked) -> Answer {
    Ok(state.invoice(asked.id(), "invoice")?.render(state))
}

/// What may still be changed once an invoice is finalized.
const EDITABLE_WHEN_OPEN: &[&str] =
    &["auto_advance", "default_payment_method", "expand", "metadata", "payment_settings"];

fn update(state: &mut State, asked: &Asked) -> Answer {
    let (id, params) = (asked.id(), &asked.params);
    let mut invoice = state.invoice(id, "id")?.clone();
    let frozen = params.0.keys().find(|name| !EDITABLE_WHEN_OPEN.contains(&name.as_str()));
    if let Some(frozen) = frozen.filter(|_| !invoice.is_draft()) {
        let message = "Finalized invoices can't be updated in this way.";
        return Err(ApiError::not_editable(message).param(frozen));
    }
    write(state, &mut invoice, params)?;
    state.wake(invoice.automatically_finalizes_at.or(invoice.next_payment_attempt), id);
    state.edit(id, |current| *current = invoice);
    Ok(state.object(id).unwrap_or_default())
}

fn remove(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.id();
    let invoice = state.invoice(id, "invoice")?.clone();
    if !invoice.is_draft() {
        return Err(ApiError::invalid("You can only delete draft invoices."));
    }
    let last = state.object(id).unwrap_or_default();
    // Its items stay behind as pending items, and bill on whatever invoice includes them next.
    invoice.lines.iter().for_each(|item| state.take_off(item));
    state.invoices.remove(id);
    state.emit("invoice.deleted", last, None);
    Ok(json!({ "id": id, "object": "invoice", "deleted": true }))
}

fn finalize(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.id();
    if !state.invoice(id, "id")?.is_draft() {
        let message = "This invoice is already finalized: only drafts can be finalized.";
        return Err(ApiError::not_editable(message));
    }
    state.finalize_invoice(id, asked.params.boolean("auto_advance"))?;
    Ok(state.object(id).unwrap_or_default())
}

fn pay(state: &mut State, asked: &Asked) -> Answer {
    let (id, params) = (asked.id(), &asked.params);
    if state.invoice(id, "id")?.is_draft() {
        state.finalize_invoice(id, None)?;
        // Nothing was due: finalizing has paid it.
        if state.invoice(id, "id")?.status == Status::Paid {
            return Ok(state.object(id).unwrap_or_default());
        }
    }
    let invoice = state.invoice(id, "id")?;
    match invoice.status {
        Status::Paid => return Err(ApiError::invalid("Invoice is already paid")),
        Status::Void => return Err(ApiError::invalid("You cannot pay a void invoice.")),
        _ => {}
    }
    if params.boolean("paid_out_of_band") == Some(true) {
        let due = invoice.sealed.as_ref().map_or(0, |sealed| sealed.amount_due);
        state.settle(id, due, true);
    } else {
        state.attempt(id, params.text("payment_method"), false)?;
    }
    Ok(state.object(id).unwrap_or_default())
}

fn send(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.id();
    let invoice = state.invoice(id, "invoice")?;
    if !invoice.send_invoice {
        let message = "You can only manually send an invoice if its collection method is `send_invoice`.";
        return Err(ApiError::invalid(message));
    }
    if invoice.is_draft() {
        state.finalize_invoice(id, None)?;
    } else if !matches!(invoice.status, Status::Open | Status::Paid) {
        return Err(not_open());
    }
    state.tell("invoice.sent", id);
    Ok(state.object(id).unwrap_or_default())
}

fn not_open() -> ApiError {
    ApiError::invalid("You can only pass in open invoices. This invoice isn't open.")
}

fn void(state: &mut State, asked: &Asked) -> Answer {
    let (id, now) = (asked.id(), state.now());
    let invoice = state.invoice(id, "id")?.clone();
    if !matches!(invoice.status, Status::Open | Status::Uncollectible) {
        return Err(not_open());
    }
    state.edit(id, |invoice| {
        invoice.status = Status::Void;
        invoice.transitions.voided_at = Some(now);
        (invoice.auto_advance, invoice.next_payment_attempt) = (false, None);
    });
    // What the balance gave to this invoice goes back to it.
    if let (Some(sealed), Some(customer)) = (&invoice.sealed, state.customers.get(&invoice.customer)) {
        let balance = customer.balance(&invoice.currency) + sealed.starting_balance - sealed.ending_balance;
        state.set_balance(&invoice.customer, &invoice.currency, balance);
    }
    state.settle_payment(id, true);
    state.tell("invoice.voided", id);
    Ok(state.object(id).unwrap_or_default())
}

fn mark_uncollectible(state: &mut State, asked: &Asked) -> Answer {
    let (id, now) = (asked.id(), state.now());
    if state.invoice(id, "id")?.status != Status::Open {
        return Err(not_open());
    }
    state.edit(id, |invoice| {
        invoice.status = Status::Uncollectible;
        invoice.transitions.marked_uncollectible_at = Some(now);
        (invoice.auto_advance, invoice.next_payment_attempt) = (false, None);
    });
    state.tell("invoice.marked_uncollectible", id);
    Ok(state.object(id).unwrap_or_default())
}
