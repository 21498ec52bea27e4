//! A month's e-mails on the console: to whom each went, and what became of it.

use std::collections::BTreeMap;

use super::When;
use super::lists::Slice;
use crate::app::App;
use crate::mailer::KINDS;
use crate::store::{EmailFilter, Page, StoredEmail};

pub(crate) use crate::store::EMAIL_STATES as STATES;

/// An e-mail in a list.
#[derive(Clone, Debug)]
pub(crate) struct EmailLine {
    pub id: String,
    pub kind: String,
    /// Id and name; none of what goes to the operator.
    pub customer: Option<(String, String)>,
    /// Id and number.
    pub invoice: Option<(String, String)>,
    pub recipient: String,
    pub state: String,
    pub error: Option<String>,
    pub when: When,
    /// Whether a person may send it again.
    pub again: bool,
}

/// A page of e-mails, and how many of the month and kind there are in each state.
#[derive(Clone, Debug)]
pub(crate) struct EmailSheet {
    pub rows: Slice<EmailLine>,
    pub counts: BTreeMap<String, i64>,
}

/// Every kind of e-mail.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// A page of e-mails, the latest first.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn emails(app: &App, page: &Page, filter: &EmailFilter) -> sqlx::Result<EmailSheet> {
    let counts = app.store.emails_by_state(&filter.month, &filter.kind).await?;
    let found = app.store.emails(page, filter).await?;
    let Slice { rows, older, newer } = Slice::new(page, found, |email| email.id.clone());
    let mut lines = Vec::with_capacity(rows.len());
    for email in rows {
        lines.push(line(app, email).await?);
    }
    Ok(EmailSheet { rows: Slice { rows: lines, older, newer }, counts: counts.into_iter().collect() })
}

/// One e-mail; none where there is none.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn email(app: &App, id: &str) -> sqlx::Result<Option<EmailLine>> {
    match app.store.email(id).await? {
        Some(email) => line(app, email).await.map(Some),
        None => Ok(None),
    }
}

async fn line(app: &App, email: StoredEmail) -> sqlx::Result<EmailLine> {
    let customer = match &email.customer_id {
        Some(id) => app.store.customer(id).await?.map(|customer| (customer.id, customer.name)),
        None => None,
    };
    let invoice = match &email.invoice_id {
        Some(id) => {
            let found = app.store.invoice(id).await?;
            found.map(|invoice| (invoice.id.clone(), invoice.number.unwrap_or(invoice.id)))
        }
        None => None,
    };
    Ok(EmailLine {
        again: matches!(email.state.as_str(), "failed" | "unknown" | "bounced"),
        customer,
        invoice,
        when: When::of_ms(app, email.sent_at.unwrap_or(email.updated_at)),
        id: email.id,
        kind: email.kind,
        recipient: email.recipient,
        state: email.state,
        error: email.last_error,
    })
}
