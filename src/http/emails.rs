//! E-mails over HTTP: what was sent to whom, what became of it, once more, and what came back.

use axum::Json as Answer;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check::Checks;
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::{EMAIL_STATES, EmailFilter, StoredEmail};
use crate::workflows::bounce::{self, BounceKind};
use crate::workflows::by::By;
use crate::workflows::email::{self, Resent, Undelivered};
use crate::workflows::imports::first_of;

/// An e-mail, one for each subject, kind and cause.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Email)]
pub(crate) struct EmailView {
    #[schema(example = "ot_eml_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `email`.
    #[schema(example = "email")]
    pub object: &'static str,
    #[schema(example = "payment_failed")]
    pub kind: String,
    /// `queued`, `sending`, `sent`, `failed`, `unknown` where nobody knows whether it has arrived, `bounced` where it came
    /// back, or `canceled` where its invoice was voided before.
    pub status: String,
    /// Who delivers it: `smtp`, which is the mail server, or `stripe`.
    #[schema(example = "smtp")]
    pub carrier: String,
    pub customer: Option<String>,
    pub invoice: Option<String>,
    /// The id of whom or what it is about.
    pub subject: String,
    /// Empty where there is no address that takes e-mail.
    pub recipient: String,
    /// The same, however often it is sent.
    pub message_id: String,
    #[schema(example = "2026-11")]
    pub month: String,
    pub attempts: i64,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub sent_at: Option<DateTime<Utc>>,
    pub(crate) bounced_at: Option<DateTime<Utc>>,
}

impl From<StoredEmail> for EmailView {
    fn from(email: StoredEmail) -> EmailView {
        EmailView {
            id: email.id,
            object: "email",
            kind: email.kind,
            status: email.state,
            carrier: email.carrier,
            customer: email.customer_id,
            invoice: email.invoice_id,
            subject: email.subject,
            recipient: email.recipient,
            message_id: email.message_id,
            month: email.month,
            attempts: email.attempts,
            last_error: email.last_error,
            created_at: from_ms(email.created_at),
            sent_at: email.sent_at.map(from_ms),
            bounced_at: email.bounced_at.map(from_ms),
        }
    }
}

/// Which e-mails.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EmailQuery {
    /// Only with this status: `queued`, `sending`, `sent`, `failed`, `unknown`, `bounced` or `canceled`.
    #[param(value_type = Option<String>)]
    status: String,
    /// Only of this kind.
    #[param(value_type = Option<String>)]
    kind: String,
    /// Only of this month, such as `2026-11`.
    #[param(value_type = Option<String>)]
    month: String,
    /// Only to this customer: id or external id.
    customer: Option<String>,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for EmailQuery {
    fn from_query(pairs: &mut Pairs) -> Result<EmailQuery, Problem> {
        let status = pairs.one("status")?.unwrap_or_default();
        if !status.is_empty() && !EMAIL_STATES.contains(&status.as_str()) {
            let detail = "is queued, sending, sent, failed, unknown, bounced or canceled";
            return Err(Problem::invalid("status", "invalid_value", detail));
        }
        Ok(EmailQuery {
            status,
            kind: pairs.id("kind")?.unwrap_or_default(),
            month: pairs.id("month")?.unwrap_or_default(),
            customer: pairs.id("customer")?,
            paging: Paging::from_query(pairs)?,
        })
    }
}

/// List e-mails
#[utoipa::path(get, path = "/v1/emails", tag = "E-mails", params(EmailQuery, Paging),
    responses((status = 200, body = List<EmailView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<EmailQuery>,
) -> Result<Answer<List<EmailView>>, Problem> {
    let customer_id = match &query.customer {
        Some(id) => super::billing::find_any(&app, id).await?.id,
        None => String::new(),
    };
    let filter = EmailFilter { state: query.status, kind: query.kind, month: query.month, customer_id };
    let (rows, has_more) = app.store.emails(&query.paging.page(prefix::EMAIL)?, &filter).await?;
    let views = rows.into_iter().map(EmailView::from).collect();
    Ok(Answer(List::new("/v1/emails", (views, has_more))))
}

/// Send an e-mail again
///
/// One that failed, came back, or of which nobody knows whether it has arrived; under the same Message-ID, so that a mailbox can
/// tell. One that was sent is not sent again.
#[utoipa::path(post, path = "/v1/emails/{id}/resend", tag = "E-mails",
    params(("id" = String, Path, description = "`ot_eml_…`")),
    responses((status = 200, body = EmailView), (status = 409, description = "It was sent, or is on its way")))]
pub(crate) async fn resend(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<Answer<EmailView>, Problem> {
    expect_id(&id, prefix::EMAIL)?;
    match email::resend(&app, &id, &by).await? {
        Resent::Queued(email) => Ok(Answer(email.into())),
        Resent::NotNow(email) => {
            let detail = format!("The e-mail is {}: it was sent, or is on its way.", email.state);
            Err(Problem::new(&kind::INVALID_STATE, detail))
        }
    }
}

/// Which e-mails to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResendEmails {
    /// Of this month.
    #[schema(example = "2026-11")]
    month: String,
    /// Only of this kind.
    #[serde(default)]
    #[schema(example = "invoice")]
    kind: Option<String>,
    /// Only what has this status: `failed`, `bounced`, or `unknown`, which may be the second one that somebody gets. Without it
    /// what failed or came back.
    #[serde(default)]
    #[schema(example = "failed")]
    status: Option<String>,
}

/// What is sent again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmailsQueued {
    /// How many.
    pub queued: usize,
}

/// Send again what a month did not deliver
///
/// Everything that was certainly not delivered and has an address that takes e-mail now, each under the same Message-ID.
#[utoipa::path(post, path = "/v1/emails/resend", tag = "E-mails", request_body = ResendEmails,
    responses((status = 200, body = EmailsQueued)))]
pub(crate) async fn resend_all(
    State(app): State<App>,
    by: By,
    Json(body): Json<ResendEmails>,
) -> Result<Answer<EmailsQueued>, Problem> {
    let mut checks = Checks::new();
    if first_of(&body.month).is_none() {
        checks.invalid("/month", "invalid_month", "must be a month such as 2026-11");
    }
    let status = body.status.unwrap_or_default();
    if !matches!(status.as_str(), "" | "failed" | "bounced" | "unknown") {
        checks.invalid("/status", "invalid_value", "must be failed, bounced or unknown");
    }
    checks.done()?;
    let which = Undelivered::of_state(&status);
    let kind = body.kind.unwrap_or_default();
    let filter = EmailFilter { state: status, kind, month: body.month, customer_id: String::new() };
    Ok(Answer(EmailsQueued { queued: email::resend_all(&app, &filter, which, &by).await? }))
}

/// An e-mail that came back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BouncedEmail {
    /// The Message-ID of what was sent, with or without angle brackets.
    #[schema(example = "<ot_eml_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A@acme.example>")]
    message_id: String,
    /// `hard` where the address never takes it, `soft` where it may later.
    kind: HowLong,
    /// What the other mail server said.
    #[schema(example = "550 5.1.1 no such user")]
    reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HowLong {
    Hard,
    Soft,
}

/// Say that an e-mail came back
///
/// For whatever reads the returned mail. The e-mail is `bounced` then, and an incident says so. After a hard bounce nothing
/// is sent to that address of the customer by itself, until it is another one or a person sends again. Saying it twice
/// changes nothing.
#[utoipa::path(post, path = "/v1/emails/bounces", tag = "E-mails", request_body = BouncedEmail,
    responses((status = 200, body = EmailView), (status = 404, description = "No e-mail has this Message-ID")))]
pub(crate) async fn bounce(
    State(app): State<App>,
    by: By,
    Json(body): Json<BouncedEmail>,
) -> Result<Answer<EmailView>, Problem> {
    let mut checks = Checks::new();
    // What mail servers say goes over several lines.
    let reason = body.reason.split_whitespace().collect::<Vec<_>>().join(" ");
    checks.line("/message_id", &body.message_id, 998);
    checks.line("/reason", &reason, 1_000);
    checks.done()?;
    let kind = match body.kind {
        HowLong::Hard => BounceKind::Hard,
        HowLong::Soft => BounceKind::Soft,
    };
    Ok(Answer(bounce::bounced(&app, &body.message_id, kind, &reason, &by).await?.into()))
}
