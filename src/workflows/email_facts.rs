//! E-mail facts: everything that the words of an e-mail can name, as its reader writes amounts and days.

use serde_json::{Value, json};

use super::WorkflowError;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::config::InvoicePdf;
use crate::mailer::{Locale, Rendered};
use crate::store::customers::Customer;
use crate::store::{Incident, Invoice, LedgerLine, Page, StoredEmail};
use opentab_billing::{Currency, InvoiceState, Money};

/// Of open incidents, so many are in a digest.
const IN_A_DIGEST: i64 = 50;
/// Nobody reads so many lines in an e-mail.
const MOST_LINES: usize = 25;

/// What an e-mail of this kind would say to a customer.
///
/// # Errors
/// Why it says nothing, for people.
pub async fn preview(
    app: &App,
    kind: &str,
    customer: &Customer,
    invoice: Option<&Invoice>,
) -> Result<Rendered, String> {
    let locale = locale(Some(customer));
    let mut facts = common(app, Some(customer));
    if let Some(invoice) = invoice {
        let known = invoice_facts(app, invoice, customer, &locale).await;
        facts["invoice"] = known.map_err(|error| error.to_string())?;
    }
    facts["incident"] = json!({
        "id": "ot_inc_…", "kind": "example", "subject": customer.id, "message": "What happened and what to do.",
        "opened_at": shown_time(app.clock.now_ms()),
    });
    (facts["incidents"], facts["incidents_open"]) = (json!([facts["incident"]]), json!(1));
    app.mailer.templates.render(kind, &locale, &facts)
}

pub(super) fn locale(customer: Option<&Customer>) -> Locale {
    Locale::new(customer.map_or(Locale::DEFAULT, |customer| customer.locale.as_str()))
}

/// Everything that a template can name. What there is none of is null.
pub(super) async fn facts(
    app: &App,
    email: &StoredEmail,
    customer: Option<&Customer>,
    locale: &Locale,
) -> Result<Value, WorkflowError> {
    let mut facts = common(app, customer);
    if let (Some(id), Some(customer)) = (&email.invoice_id, customer)
        && let Some(invoice) = app.store.invoice(id).await?
    {
        facts["invoice"] = invoice_facts(app, &invoice, customer, locale).await?;
    }
    if email.subject.starts_with(prefix::INCIDENT) {
        let mut tx = app.store.db.begin().await?;
        let incident = tx.incident(&email.subject).await?;
        facts["incident"] = incident.as_ref().map_or(Value::Null, incident_facts);
    }
    if email.kind == "incident_digest" {
        let page = Page { limit: IN_A_DIGEST, after: String::new(), before: String::new() };
        let (incidents, _) = app.store.open_incidents(&page).await?;
        facts["incidents"] = incidents.iter().map(incident_facts).collect();
        facts["incidents_open"] = json!(app.store.count_incidents().await?);
    }
    Ok(facts)
}

fn common(app: &App, customer: Option<&Customer>) -> Value {
    // Names are given by strangers: no link stands in what we send because somebody is called one.
    let customer = customer.map(|customer| {
        let name = customer.name.replace("://", " ");
        json!({ "id": customer.id, "name": name, "external_id": customer.external_id })
    });
    json!({
        "sender": app.mailer.sender_name(),
        "public_url": app.config.public_url,
        "customer": customer,
        "invoice": null,
        "incident": null,
        "incidents": [],
        "incidents_open": 0,
    })
}

fn incident_facts(incident: &Incident) -> Value {
    json!({
        "id": incident.id,
        "kind": incident.kind,
        "subject": incident.subject,
        "message": incident.message,
        "opened_at": shown_time(incident.opened_at.timestamp_millis()),
    })
}

fn shown_time(ms: i64) -> String {
    from_ms(ms).format("%Y-%m-%d %H:%M UTC").to_string()
}

/// An invoice as its customer reads it.
async fn invoice_facts(
    app: &App,
    invoice: &Invoice,
    customer: &Customer,
    locale: &Locale,
) -> sqlx::Result<Value> {
    let money = |minor_units| match Currency::parse(&invoice.currency) {
        Ok(currency) => locale.money(Money::new(minor_units, currency)),
        Err(_) => format!("{minor_units} {}", invoice.currency),
    };
    let day = |ms| locale.day(from_ms(ms).with_timezone(&customer.time_zone).date_naive());
    let Lines { lines, other } = lines(invoice, &app.store.ledger_lines(&invoice.id).await?);
    let line = |(what, amount): (String, i64)| json!({ "what": what, "amount": money(amount) });
    Ok(json!({
        "id": invoice.id,
        "number": invoice.number.as_deref().unwrap_or(&invoice.id),
        "total": money(invoice.total),
        "amount_due": money(invoice.amount_due),
        "amount_paid": money(invoice.amount_paid),
        "amount_remaining": money(invoice.amount_remaining),
        "paid": invoice.state == InvoiceState::Paid.as_str(),
        // The end is the first moment that is no longer in it.
        "period": format!("{} – {}", day(invoice.period_start), day(invoice.period_end - 1)),
        "due": invoice.due_at.map(day),
        "lines": lines.into_iter().map(line).collect::<Vec<_>>(),
        "other": other.map(money),
        "hosted_url": invoice.hosted_invoice_url,
        "pdf_url": invoice.invoice_pdf,
        "pdf_attached": app.config.mail.pdf == InvoicePdf::Attach,
    }))
}

/// What an e-mail lists of an invoice.
struct Lines {
    /// What for, and how much in minor units.
    lines: Vec<(String, i64)>,
    /// What makes up the total beside them: taxes, discounts, lines of others. None where they are all.
    other: Option<i64>,
}

/// The lines as Stripe shows them, where they are few enough to be read; otherwise the invoice itself lists them.
fn lines(invoice: &Invoice, ledger: &[LedgerLine]) -> Lines {
    let amount = |line: &LedgerLine| line.stripe_amount.filter(|amount| *amount != 0);
    let shown = ledger.iter().filter_map(|line| Some((one_line(&line.description), amount(line)?)));
    let lines: Vec<(String, i64)> = shown.collect();
    let sum = lines.iter().fold(0_i64, |sum, (_, amount)| sum.saturating_add(*amount));
    let other = invoice.total.saturating_sub(sum);
    match lines.len() {
        0 | MOST_LINES.. => Lines { lines: Vec::new(), other: None },
        _ => Lines { lines, other: Some(other).filter(|other| *other != 0) },
    }
}

/// A tab or an empty line in it would make another table of it.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
