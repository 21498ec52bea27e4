//! A month's e-mails on the console, and sending them again, which is asked for twice.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::invoices::slice;
use super::{go_to, if_known, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::extract::{Form, FromQuery, Pairs, Query, expect_id};
use crate::http::problem::Problem;
use crate::pages::console::{AskPage, rendered};
use crate::pages::emails::{AGAIN, EmailsPage, EmailsWanted};
use crate::store::{EmailFilter, Page};
use crate::workflows::by::By;
use crate::workflows::console::emails as sheets;
use crate::workflows::console::press::press;
use crate::workflows::email::{Undelivered, resend_all};
use crate::workflows::generate::last_month;
use crate::workflows::imports::first_of;
use crate::workflows::invoice_email::INVOICE;
use crate::workflows::remedy::Action;

const TAB: &str = "/console/emails";

/// Which e-mails; by itself those that brought the invoices of the month before this one.
#[derive(Debug)]
pub(crate) struct EmailsQuery {
    wanted: EmailsWanted,
    page: Page,
    /// So many were just queued.
    queued: Option<i64>,
}

fn wanted(pairs: &mut Pairs) -> Result<EmailsWanted, Problem> {
    let mut text =
        |name| -> Result<String, Problem> { Ok(pairs.one(name)?.unwrap_or_default().trim().to_owned()) };
    let (month, kind, status) = (text("month")?, text("kind")?, text("status")?);
    Ok(EmailsWanted {
        month: if_known(month.clone(), first_of(&month).is_some()),
        kind: if kind.is_empty() {
            INVOICE.to_owned()
        } else {
            if_known(kind.clone(), sheets::kinds().any(|name| name == kind))
        },
        status: if_known(status.clone(), sheets::STATES.contains(&status.as_str())),
    })
}

impl FromQuery for EmailsQuery {
    fn from_query(pairs: &mut Pairs) -> Result<EmailsQuery, Problem> {
        let (wanted, page) = (wanted(pairs)?, slice(pairs, prefix::EMAIL)?);
        Ok(EmailsQuery { wanted, page, queued: pairs.number("queued", 0..=i64::MAX)? })
    }
}

/// E-mails of a month, the latest first.
pub(crate) async fn emails(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(query): Query<EmailsQuery>,
) -> Result<Response, Problem> {
    let EmailsQuery { mut wanted, page, queued } = query;
    if wanted.month.is_empty() {
        wanted.month = last_month(&app);
    }
    let filter = EmailFilter {
        state: wanted.status.clone(),
        kind: wanted.kind.clone(),
        month: wanted.month.clone(),
        customer_id: String::new(),
    };
    let sheet = sheets::emails(&app, &page, &filter).await?;
    let mut shell = shell(&app, &key, TAB, None);
    shell.said = queued.map(|count| match count {
        1 => "One e-mail is queued again.".to_owned(),
        count => format!("{count} e-mails are queued again. What has no address that takes e-mail stays."),
    });
    Ok(html(
        StatusCode::OK,
        rendered(&EmailsPage { shell, wanted: &wanted, rows: &sheet.rows, sheet: &sheet }),
    ))
}

/// A wish to send one e-mail again, or all of a month that were not delivered.
#[derive(Debug)]
pub(crate) struct Again {
    id: String,
    wanted: EmailsWanted,
    confirmed: bool,
}

impl FromQuery for Again {
    fn from_query(pairs: &mut Pairs) -> Result<Again, Problem> {
        let id = pairs.one("id")?.unwrap_or_default();
        let mut wanted = wanted(pairs)?;
        if !matches!(wanted.status.as_str(), "" | "unknown") {
            wanted.status = String::new();
        }
        if id.is_empty() && wanted.month.is_empty() {
            return Err(Problem::invalid("month", "invalid_month", "must be a month such as 2026-11"));
        }
        Ok(Again { id, wanted, confirmed: pairs.one("confirmed")?.as_deref() == Some("yes") })
    }
}

/// Sends again, once somebody has said yes.
pub(crate) async fn press_emails(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    by: By,
    Form(again): Form<Again>,
) -> Result<Response, Problem> {
    if !again.id.is_empty() {
        expect_id(&again.id, prefix::EMAIL)?;
        let missing = || Problem::not_found("There is no such e-mail.");
        let email = sheets::email(&app, &again.id).await?.ok_or_else(missing)?;
        if again.confirmed {
            press(&app, Action::Resend, &again.id, &by).await?;
            return Ok(go_to(&format!("{TAB}?queued=1")));
        }
        let (title, text) = ("Send this e-mail again?".to_owned(), about_one(&email));
        let fields = vec![("id", again.id)];
        let (yes, back) = ("send it again".to_owned(), TAB.to_owned());
        let page = AskPage { shell: shell(&app, &key, TAB, None), title, text, to: AGAIN, fields, yes, back };
        return Ok(html(StatusCode::OK, rendered(&page)));
    }
    let EmailsWanted { month, kind, status } = &again.wanted;
    let filter = EmailFilter {
        state: status.clone(),
        kind: kind.clone(),
        month: month.clone(),
        customer_id: String::new(),
    };
    let back = EmailsWanted { status: String::new(), ..again.wanted.clone() };
    if again.confirmed {
        let queued = resend_all(&app, &filter, Undelivered::of_state(status), &by).await?;
        return Ok(go_to(&back.address(&[("queued", &queued.to_string())])));
    }
    let (title, text) = about_all(&again.wanted);
    let kind = if kind.is_empty() { "any".to_owned() } else { kind.clone() };
    let fields = vec![("month", month.clone()), ("kind", kind), ("status", status.clone())];
    let (yes, back) = ("send them again".to_owned(), back.address(&[]));
    let page = AskPage { shell: shell(&app, &key, TAB, None), title, text, to: AGAIN, fields, yes, back };
    Ok(html(StatusCode::OK, rendered(&page)))
}

fn about_one(email: &sheets::EmailLine) -> String {
    let name = email.customer.as_ref().map_or("the operator", |(_, name)| name);
    let risk = match email.state.as_str() {
        "unknown" => {
            "Nobody knows whether the first one has arrived: this may be the second one that they get."
        }
        "bounced" => "The first one came back. It goes to the address that the customer has now.",
        _ => "The first one was not delivered. It goes to the address that the customer has now.",
    };
    format!("To {name}. {risk}")
}

fn about_all(wanted: &EmailsWanted) -> (String, String) {
    let month = &wanted.month;
    match wanted.status.as_str() {
        "unknown" => (
            format!("Send all e-mails of {month} again whose ending nobody knows?"),
            "They may be the second ones that those customers get: ask the mail server first.".to_owned(),
        ),
        _ => (
            format!("Send all e-mails of {month} again that were not delivered?"),
            "Those that failed or came back, and have an address that takes e-mail now. Each keeps its Message-ID."
                .to_owned(),
        ),
    }
}
