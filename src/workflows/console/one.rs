//! One invoice or one customer, with everything that is known and what can be pressed.

use super::needs::{Need, customer_thing, of_incident};
use super::{Button, Thing, When, at_stripe, money};
use crate::app::App;
use crate::clock::from_ms;
use crate::store::audit::AuditRow;
use crate::store::customers::{Customer, CustomerState};
use crate::store::{Attempt, Charge, Invoice, LedgerLine, StoredEmail};
use crate::workflows::WorkflowError;
use crate::workflows::remedy::Action;
use opentab_billing::dunning::ChargeState;

/// Rows of a list that is not the page's subject.
const MOST: i64 = 50;

/// One invoice.
#[derive(Clone, Debug)]
pub(crate) struct InvoiceSheet {
    pub id: String,
    pub invoice: Thing,
    pub customer: Thing,
    /// Of the charge; before it is finalized, of the invoice.
    pub state: String,
    pub reason: Option<String>,
    /// What Stripe said last.
    pub message: Option<String>,
    pub total: String,
    pub(crate) facts: Vec<Fact>,
    pub(crate) hosted_url: Option<String>,
    pub lines: Vec<Line>,
    pub attempts: Vec<Try>,
    /// Refunds, disputes, credit notes, payments elsewhere: a sentence each.
    pub(crate) money_back: Vec<String>,
    pub letters: Vec<LetterRow>,
    pub audit: Vec<Noted>,
    pub needs: Vec<Need>,
    /// Every button, also those that cannot be pressed now.
    pub(crate) buttons: Vec<Button>,
}

/// One customer.
#[derive(Clone, Debug)]
pub(crate) struct CustomerSheet {
    pub id: String,
    pub customer: Thing,
    pub suspended: Option<When>,
    pub gone_at_stripe: bool,
    /// The days between which they are billed, as a form field has them; empty for always and never.
    pub active_from: String,
    pub active_until: String,
    pub(crate) facts: Vec<Fact>,
    pub invoices: Vec<InvoiceLine>,
    pub letters: Vec<LetterRow>,
    pub audit: Vec<Noted>,
    pub needs: Vec<Need>,
    pub(crate) buttons: Vec<Button>,
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub name: &'static str,
    pub value: String,
}

/// A line of an invoice.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub description: String,
    /// What we put there.
    pub amount: String,
    /// What Stripe holds, where somebody changed it.
    pub at_stripe: Option<String>,
    /// Carried by a folded line.
    pub folded: bool,
}

/// One try to charge, void or write off.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub when: When,
    pub action: String,
    /// `under way` while nobody knows.
    pub outcome: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub actor: String,
    /// Under which it stands in Stripe's log.
    pub idempotency_key: String,
}

/// An e-mail.
#[derive(Clone, Debug)]
pub(crate) struct LetterRow {
    pub kind: String,
    pub recipient: String,
    pub state: String,
    pub when: When,
    pub error: Option<String>,
    /// Where it may be sent again.
    pub button: Option<Button>,
}

/// An audit row.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub when: When,
    pub actor: String,
    pub action: String,
    pub detail: String,
}

/// An invoice of a customer, in a list.
#[derive(Clone, Debug)]
pub(crate) struct InvoiceLine {
    pub id: String,
    pub name: String,
    pub cycle: String,
    pub state: String,
    pub reason: Option<String>,
    pub total: String,
}

pub(super) fn invoice_thing(app: &App, invoice: &Invoice) -> Thing {
    Thing {
        name: invoice_name(invoice),
        page: Some(format!("/console/invoices/{}", invoice.id)),
        at_stripe: at_stripe(app, "invoices", invoice.stripe_invoice_id.as_deref()),
    }
}

/// Its number; before it has one, which cycle it is for.
fn invoice_name(invoice: &Invoice) -> String {
    match &invoice.number {
        Some(number) => format!("Invoice {number}"),
        None => format!("Invoice for {} ({})", invoice.cycle, invoice.state),
    }
}

/// What is still to be paid; none where nothing is.
pub(super) fn open_amount(invoice: &Invoice) -> Option<String> {
    let open = invoice.sealed_at.is_some() && invoice.amount_remaining > 0;
    open.then(|| money(&invoice.currency, invoice.amount_remaining))
}

/// Why an action is not for this invoice now; none where it is. Other actions are always for it.
pub(crate) fn not_now(action: Action, invoice: &Invoice, charge: Option<&Charge>) -> Option<String> {
    let about_money = action.is_confirmed() || action == Action::Retry;
    let Some(charge) = charge else {
        let why = format!("the invoice is {}: it is not finalized", invoice.state);
        return about_money.then_some(why);
    };
    let Ok(state) = charge.state() else { return None };
    let why = match (action, state) {
        (Action::Pay | Action::Retry | Action::Void | Action::MarkUncollectible, ChargeState::Paid) => {
            "it is paid"
        }
        (Action::Pay | Action::Retry | Action::Void | Action::MarkUncollectible, ChargeState::Void) => {
            "it is void"
        }
        (Action::MarkUncollectible | Action::Retry, ChargeState::Uncollectible) => "it is written off",
        (Action::Retry, _) if !charge.is_ours() => "Stripe collects it by its own rules: charge it instead",
        _ => return None,
    };
    Some(why.to_owned())
}

/// Everything about an invoice; none where there is none.
pub(crate) async fn invoice(app: &App, id: &str) -> Result<Option<InvoiceSheet>, WorkflowError> {
    let Some(invoice) = app.store.invoice(id).await? else { return Ok(None) };
    let missing = || WorkflowError::NotFound(format!("customer of {id}"));
    let customer = app.store.customer(&invoice.customer_id).await?.ok_or_else(missing)?;
    let charge = app.store.charge(id).await?;
    let attempts = app.store.attempts(id).await?;
    let mut needs = Vec::new();
    for incident in app.store.incidents_about(id).await? {
        needs.push(of_incident(app, &incident).await?);
    }
    let lines = lines(app, &invoice).await?;
    let overridden = lines.iter().any(|line| line.at_stripe.is_some());
    Ok(Some(InvoiceSheet {
        id: invoice.id.clone(),
        invoice: invoice_thing(app, &invoice),
        customer: customer_thing(app, &customer),
        state: charge.as_ref().map_or(&invoice.state, |charge| &charge.state).clone(),
        reason: charge.as_ref().and_then(|charge| charge.reason.clone()),
        message: charge.as_ref().and_then(|charge| charge.message.clone()),
        total: money(&invoice.currency, invoice.total),
        facts: invoice_facts(app, &invoice, charge.as_ref()),
        hosted_url: invoice.hosted_invoice_url.clone(),
        lines,
        money_back: money_back(app, &invoice, charge.as_ref(), &attempts).await?,
        attempts: attempts.into_iter().map(|attempt| tried(app, attempt)).collect(),
        letters: app.store.emails_of_invoice(id).await?.into_iter().map(|mail| letter(app, mail)).collect(),
        audit: noted(app, app.store.audit_of(id, MOST).await?),
        needs,
        buttons: invoice_buttons(&invoice, charge.as_ref(), overridden),
    }))
}

fn invoice_buttons(invoice: &Invoice, charge: Option<&Charge>, overridden: bool) -> Vec<Button> {
    let actions = [Action::Pay, Action::Retry, Action::Void, Action::MarkUncollectible, Action::Rebill];
    let nothing_off = charge.is_some() && invoice.state != "void" && !overridden;
    let button = |action: Action| {
        let not_now = match action {
            Action::Rebill if nothing_off => Some("nothing was taken off it, and it is not void".to_owned()),
            _ => not_now(action, invoice, charge),
        };
        Button { action, subject: invoice.id.clone(), not_now }
    };
    let mut buttons: Vec<Button> = actions.into_iter().map(button).collect();
    buttons.push(Button::new(Action::Sync, &invoice.customer_id));
    buttons
}

fn fact(name: &'static str, value: impl Into<String>) -> Fact {
    Fact { name, value: value.into() }
}

fn time_fact(app: &App, name: &'static str, ms: Option<i64>) -> Option<Fact> {
    let when = When::of_ms(app, ms?);
    Some(fact(name, format!("{} ({})", when.text, when.ago)))
}

fn invoice_facts(app: &App, invoice: &Invoice, charge: Option<&Charge>) -> Vec<Fact> {
    let amount = |minor_units| money(&invoice.currency, minor_units);
    let mut facts = vec![
        fact("Billing cycle", &*invoice.cycle),
        fact("Paid", amount(invoice.amount_paid)),
        fact("Open", amount(invoice.amount_remaining)),
    ];
    match charge {
        None => facts.extend(time_fact(app, "Finalized", Some(invoice.close_at))),
        Some(charge) => {
            facts.push(fact("Collected by", &*charge.collection));
            facts.extend(time_fact(app, "Due", Some(charge.due_at)));
            facts.extend(time_fact(app, "Next try", charge.next_attempt_at));
            facts.extend(time_fact(app, "Suspends the customer", charge.suspend_at));
            facts.extend(time_fact(app, "Paid", charge.paid_at));
        }
    }
    facts.push(fact("Id", &*invoice.id));
    facts.extend(invoice.stripe_invoice_id.as_deref().map(|id| fact("At Stripe", id)));
    facts
}

async fn lines(app: &App, invoice: &Invoice) -> sqlx::Result<Vec<Line>> {
    if invoice.sealed_at.is_some() {
        let lines = app.store.ledger_lines(&invoice.id).await?;
        return Ok(lines.into_iter().map(|line| sealed_line(invoice, line)).collect());
    }
    let items = app.store.items(&invoice.id).await?;
    let line = |item: crate::store::Item| Line {
        amount: money(&invoice.currency, item.amount),
        description: item.description,
        at_stripe: None,
        folded: false,
    };
    Ok(items.into_iter().map(line).collect())
}

fn sealed_line(invoice: &Invoice, line: LedgerLine) -> Line {
    let changed = line.stripe_amount.filter(|held| *held != line.amount);
    Line {
        amount: money(&invoice.currency, line.amount),
        at_stripe: changed.map(|held| money(&invoice.currency, held)),
        folded: line.stripe_amount.is_none(),
        description: line.description,
    }
}

fn tried(app: &App, attempt: Attempt) -> Try {
    Try {
        when: When::of_ms(app, attempt.begun_at),
        action: attempt.action,
        outcome: attempt.outcome.unwrap_or_else(|| "under way".to_owned()),
        reason: attempt.reason,
        message: attempt.message,
        actor: attempt.actor,
        idempotency_key: attempt.idempotency_key,
    }
}

/// What happened to the money beside our own tries.
async fn money_back(
    app: &App,
    invoice: &Invoice,
    charge: Option<&Charge>,
    attempts: &[Attempt],
) -> sqlx::Result<Vec<String>> {
    let Some(charge) = charge else { return Ok(Vec::new()) };
    let amount = |minor_units| money(&invoice.currency, minor_units);
    let mut said = Vec::new();
    let ours = attempts.iter().any(|attempt| attempt.outcome.as_deref() == Some("paid"));
    if charge.state == "paid" && !ours {
        said.push(match charge.stripe_payment_id {
            Some(_) => "Paid at Stripe without a try of Opentab's.".to_owned(),
            None => "Paid elsewhere: marked as paid out of band, or nothing was due.".to_owned(),
        });
    }
    if charge.refunded_amount > 0 {
        said.push(format!("{} were refunded.", amount(charge.refunded_amount)));
    }
    if let Some(dispute) = &charge.dispute {
        said.push(format!("The payment is disputed: {}.", dispute.replace('_', " ")));
    }
    for (id, minor_units, void) in app.store.credit_notes(&invoice.id).await? {
        let void = if void == 1 { ", void" } else { "" };
        said.push(format!("Credit note {id} over {}{void}.", amount(minor_units)));
    }
    Ok(said)
}

fn letter(app: &App, email: StoredEmail) -> LetterRow {
    let again = matches!(email.state.as_str(), "failed" | "unknown" | "bounced");
    LetterRow {
        button: again.then(|| Button::new(Action::Resend, &email.id)),
        kind: email.kind,
        recipient: email.recipient,
        state: email.state,
        when: When::of_ms(app, email.sent_at.unwrap_or(email.created_at)),
        error: email.last_error,
    }
}

fn noted(app: &App, rows: Vec<AuditRow>) -> Vec<Noted> {
    let noted = |row: AuditRow| Noted {
        when: When::new(from_ms(row.at), app.clock.now()),
        actor: row.actor,
        action: row.action,
        detail: if row.detail == "{}" { String::new() } else { row.detail },
    };
    rows.into_iter().map(noted).collect()
}

/// Everything about a customer; none where there is none.
pub(crate) async fn customer(app: &App, id: &str) -> Result<Option<CustomerSheet>, WorkflowError> {
    let Some(customer) = app.store.customer(id).await? else { return Ok(None) };
    let mut needs = Vec::new();
    for incident in app.store.incidents_of_customer(id, MOST).await? {
        needs.push(of_incident(app, &incident).await?);
    }
    let letters = app.store.emails_of_customer(id, MOST).await?;
    Ok(Some(CustomerSheet {
        id: customer.id.clone(),
        customer: customer_thing(app, &customer),
        suspended: customer.suspended_at.map(|at| When::new(at, app.clock.now())),
        gone_at_stripe: customer.state == CustomerState::GoneAtStripe,
        active_from: customer.active_from.map(|day| day.to_string()).unwrap_or_default(),
        active_until: customer.active_until.map(|day| day.to_string()).unwrap_or_default(),
        facts: customer_facts(app, &customer),
        invoices: invoices_of(app, &customer).await?,
        letters: letters.into_iter().map(|mail| letter(app, mail)).collect(),
        audit: noted(app, app.store.audit_of(id, MOST).await?),
        needs,
        buttons: vec![Button::new(Action::Sync, id)],
    }))
}

fn customer_facts(app: &App, customer: &Customer) -> Vec<Fact> {
    let mut facts = vec![fact("E-mail", customer.email.as_deref().unwrap_or("none"))];
    if customer.email_bounces() {
        facts.push(fact("E-mail bounces", "nothing is sent there by itself until it is another one"));
    }
    facts.extend(customer.external_id.as_deref().map(|id| fact("Your id", id)));
    facts.push(fact("Id", &*customer.id));
    facts.push(fact("At Stripe", customer.stripe_customer_id.as_deref().unwrap_or("not yet")));
    facts.push(fact("Currency", customer.currency.as_str().to_uppercase()));
    facts.push(fact("Time zone", customer.time_zone.name()));
    facts.push(fact("Cycle begins on day", customer.anchor_day.to_string()));
    facts.push(fact("Collection", customer.collection_method.as_str().replace('_', " ")));
    facts.push(fact("Language", &*customer.locale));
    facts.push(fact("Billed", active_days(customer)));
    let imported = customer.last_imported_at.map(|at| at.timestamp_millis());
    facts.extend(time_fact(app, "Last on a list", imported));
    let grace =
        customer.suspension_grace_days.map(|days| fact("Grace", super::plural(days.unsigned_abs(), "day")));
    facts.extend(grace);
    facts.extend(time_fact(app, "Since", Some(customer.created_at.timestamp_millis())));
    facts
}

fn active_days(customer: &Customer) -> String {
    match (customer.active_from, customer.active_until) {
        (None, None) => "always".to_owned(),
        (Some(from), None) => format!("from {from}"),
        (None, Some(until)) => format!("until before {until}"),
        (Some(from), Some(until)) => format!("from {from} until before {until}"),
    }
}

async fn invoices_of(app: &App, customer: &Customer) -> sqlx::Result<Vec<InvoiceLine>> {
    let mut shown = Vec::new();
    // Greater than every id of an invoice, in every collation.
    for invoice in app.store.invoices_of(&customer.id, "ot_inv_z", MOST).await? {
        let charge = app.store.charge(&invoice.id).await?;
        shown.push(InvoiceLine {
            name: invoice_name(&invoice),
            state: charge.as_ref().map_or(&invoice.state, |charge| &charge.state).clone(),
            reason: charge.and_then(|charge| charge.reason),
            total: money(&invoice.currency, invoice.total),
            cycle: invoice.cycle,
            id: invoice.id,
        });
    }
    Ok(shown)
}

/// The amount, the customer and the invoice that a confirmation is about.
pub(crate) async fn about(
    app: &App,
    action: Action,
    subject: &str,
) -> Result<Option<Confirmed>, WorkflowError> {
    let Some(invoice) = app.store.invoice(subject).await? else { return Ok(None) };
    let customer = app.store.customer(&invoice.customer_id).await?;
    let charge = app.store.charge(subject).await?;
    let amount = match action {
        Action::Pay => invoice.amount_remaining,
        _ => invoice.total,
    };
    Ok(Some(Confirmed {
        invoice: invoice_thing(app, &invoice),
        customer: customer.map(|customer| customer.name).unwrap_or_default(),
        amount: money(&invoice.currency, amount),
        not_now: not_now(action, &invoice, charge.as_ref()),
    }))
}

/// What somebody is asked to confirm.
#[derive(Clone, Debug)]
pub(crate) struct Confirmed {
    pub invoice: Thing,
    pub customer: String,
    pub amount: String,
    /// Why it cannot be done at all.
    pub(crate) not_now: Option<String>,
}
