//! Charges over HTTP: how getting paid stands, and what a person can ask for.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::billing::find_any;
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::{Attempt, Charge, ChargeFilter};
use crate::workflows::by::By;
use crate::workflows::charge::{self, Asked, ManualError};
use opentab_billing::cycle::month_span;
use opentab_billing::{ChargeState, Reason};

/// How getting one finalized invoice paid stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Charge)]
pub(crate) struct ChargeView {
    #[schema(example = "ot_chg_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `charge`.
    #[schema(example = "charge")]
    pub object: &'static str,
    #[schema(example = "ot_inv_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub invoice: String,
    pub customer: String,
    /// Who tries: `stripe` by its own rules, or `opentab`.
    #[schema(example = "opentab")]
    pub collection: String,
    /// `pending`, `in_progress`, `paid`, `failed`, `needs_attention`, `uncollectible` or `void`.
    #[schema(example = "failed")]
    pub status: String,
    /// Why the last try failed; null where none did.
    #[schema(example = "insufficient_funds")]
    pub reason: Option<String>,
    /// How many tries failed for that reason.
    pub tries: i64,
    /// What Stripe said.
    pub message: Option<String>,
    pub due_at: DateTime<Utc>,
    /// When it is tried, or looked at, again by itself; null where it is not.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the customer is suspended for it, or was.
    pub suspend_at: Option<DateTime<Utc>>,
    pub(crate) paid_at: Option<DateTime<Utc>>,
    /// What was given back since, in minor units.
    pub refunded_amount: i64,
    /// What credit notes take off it, in minor units.
    pub credited_amount: i64,
    /// Stripe's word for where a dispute is; null where there is none.
    #[schema(example = "needs_response")]
    pub dispute: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Every try, oldest first. Lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<AttemptView>>,
}

/// One try: a write to Stripe.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChargeAttempt)]
pub(crate) struct AttemptView {
    #[schema(example = "ot_att_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// `pay`, `void` or `mark_uncollectible`.
    #[schema(example = "pay")]
    pub action: String,
    /// Under which it stands in Stripe's log. A try that got no answer is sent again under its key.
    pub idempotency_key: String,
    /// `paid`, `done`, `failed`, `refused`, `no_answer`, `not_started` or `overtaken`; null while nobody knows.
    #[schema(example = "failed")]
    pub outcome: Option<String>,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// An API key's id, `operator`, or `charge` for the schedule.
    pub actor: String,
    pub begun_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> AttemptView {
        AttemptView {
            id: attempt.id,
            action: attempt.action,
            idempotency_key: attempt.idempotency_key,
            outcome: attempt.outcome,
            reason: attempt.reason,
            message: attempt.message,
            actor: attempt.actor,
            begun_at: from_ms(attempt.begun_at),
            settled_at: attempt.settled_at.map(from_ms),
        }
    }
}

impl ChargeView {
    fn new(charge: Charge, attempts: Option<Vec<Attempt>>) -> ChargeView {
        ChargeView {
            id: charge.id,
            object: "charge",
            invoice: charge.invoice_id,
            customer: charge.customer_id,
            collection: charge.collection,
            status: charge.state,
            reason: charge.reason,
            tries: charge.tries,
            message: charge.message,
            due_at: from_ms(charge.due_at),
            next_attempt_at: charge.next_attempt_at.map(from_ms),
            suspend_at: charge.suspend_at.map(from_ms),
            paid_at: charge.paid_at.map(from_ms),
            refunded_amount: charge.refunded_amount,
            credited_amount: charge.credited_amount,
            dispute: charge.dispute,
            created_at: from_ms(charge.created_at),
            updated_at: from_ms(charge.updated_at),
            attempts: attempts.map(|all| all.into_iter().map(AttemptView::from).collect()),
        }
    }
}

/// A person did not get what they asked for.
impl From<ManualError> for Problem {
    fn from(error: ManualError) -> Problem {
        match error {
            ManualError::Gone => Problem::not_found("There is no invoice with this id."),
            ManualError::AlreadyPaid => Problem::new(&kind::ALREADY_PAID, error.to_string()),
            ManualError::InvalidState(why) => Problem::new(&kind::INVALID_STATE, why),
            ManualError::NoPlace => Problem::new(&kind::OVERLOADED, error.to_string()).retry_after(2),
            ManualError::Workflow(error) => error.into(),
        }
    }
}

/// Which charges.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChargeQuery {
    /// Only of this customer: `ot_cus_…`, or your own external id.
    #[param(value_type = Option<String>)]
    customer: String,
    /// Only with this status.
    #[param(value_type = Option<String>, example = "failed")]
    status: String,
    /// Only where the last try failed for this reason.
    #[param(value_type = Option<String>, example = "insufficient_funds")]
    reason: String,
    /// Only what was due in this month, by UTC.
    #[param(value_type = Option<String>, example = "2026-12")]
    month: Option<(i64, i64)>,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for ChargeQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ChargeQuery, Problem> {
        let status = pairs.one("status")?.unwrap_or_default();
        if !status.is_empty() && !ChargeState::NAMES.contains(&status.as_str()) {
            let detail = format!("must be one of {}", ChargeState::NAMES.join(", "));
            return Err(Problem::invalid("status", "invalid_value", detail));
        }
        let reason = pairs.one("reason")?.unwrap_or_default();
        check_reason("reason", &reason)?;
        let month = pairs.one("month")?.map(|text| month("month", &text)).transpose()?;
        let customer = pairs.id("customer")?.unwrap_or_default();
        Ok(ChargeQuery { customer, status, reason, month, paging: Paging::from_query(pairs)? })
    }
}

fn check_reason(pointer: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() || text.parse::<Reason>().is_ok() {
        Ok(())
    } else {
        let detail = format!("must be one of {}", Reason::ALL.map(Reason::as_str).join(", "));
        Err(Problem::invalid(pointer, "invalid_value", detail))
    }
}

/// From and until, in unix milliseconds.
fn month(pointer: &str, text: &str) -> Result<(i64, i64), Problem> {
    month_span(text)
        .ok_or_else(|| Problem::invalid(pointer, "invalid_value", "must be a month such as 2026-12"))
}

/// List charges
///
/// Newest first: what is paid, what failed and why, and when it goes on.
#[utoipa::path(get, path = "/v1/charges", tag = "Charges", params(ChargeQuery, Paging),
    responses((status = 200, body = List<ChargeView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<ChargeQuery>,
) -> Result<Answer<List<ChargeView>>, Problem> {
    let page = query.paging.page(prefix::CHARGE)?;
    let customer_id =
        if query.customer.is_empty() { String::new() } else { find_any(&app, &query.customer).await?.id };
    let filter = ChargeFilter { customer_id, state: query.status, reason: query.reason, due: query.month };
    let (rows, has_more) = app.store.charges(&page, &filter).await?;
    let views = rows.into_iter().map(|charge| ChargeView::new(charge, None)).collect();
    Ok(Answer(List::new("/v1/charges", (views, has_more))))
}

/// What to charge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunCharges {
    /// `due`: everything past due. `network`: what failed because Stripe could not be reached. `failed`: everything that
    /// failed or waits for a human, or does so for `reason`.
    #[schema(example = "due")]
    what: String,
    /// Only what failed for this reason.
    #[serde(default)]
    #[schema(example = "insufficient_funds")]
    reason: Option<String>,
    /// Only what was due in this month, by UTC.
    #[serde(default)]
    #[schema(example = "2026-12")]
    month: Option<String>,
}

/// What was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChargeRun {
    /// Always `charge_run`.
    #[schema(example = "charge_run")]
    object: &'static str,
    /// How many charges have a job now that tries them. `GET /v1/charges` shows what comes of it.
    asked: usize,
}

/// Run charges
///
/// Charges everything past due, tries network errors again, or tries again what failed for a reason. The workers do it,
/// so many at once; asking twice charges nothing twice.
#[utoipa::path(post, path = "/v1/charges/run", tag = "Charges", request_body = RunCharges,
    responses((status = 202, body = ChargeRun)))]
pub(crate) async fn run(
    State(app): State<App>,
    by: By,
    Json(body): Json<RunCharges>,
) -> Result<(StatusCode, Answer<ChargeRun>), Problem> {
    let due = body.month.as_deref().map(|text| month("/month", text)).transpose()?.unwrap_or((0, i64::MAX));
    let reason = body.reason.as_deref().unwrap_or("");
    check_reason("/reason", reason)?;
    match body.what.as_str() {
        "due" if body.month.is_some() => return Err(ignored("/month", "due")),
        "network" if body.reason.is_some() => return Err(ignored("/reason", "network")),
        _ => {}
    }
    let asked = match body.what.as_str() {
        "due" => charge::ask_for_due(&app, reason).await?.len(),
        "network" => charge::ask_for_failed(&app, Reason::Network.as_str(), due).await?,
        "failed" => charge::ask_for_failed(&app, reason, due).await?,
        _ => return Err(Problem::invalid("/what", "invalid_value", "must be one of due, network, failed")),
    };
    charge::note_run(&app, &body.what, reason, asked, &by).await?;
    Ok((StatusCode::ACCEPTED, Answer(ChargeRun { object: "charge_run", asked })))
}

/// What would be without effect is a mistake.
fn ignored(pointer: &str, what: &str) -> Problem {
    Problem::invalid(pointer, "not_for_what", format!("does not go with `{what}`"))
}

/// Retrieve an invoice's charge
///
/// With every try of it.
#[utoipa::path(get, path = "/v1/invoices/{id}/charge", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`")), responses((status = 200, body = ChargeView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<ChargeView>, Problem> {
    expect_id(&id, prefix::INVOICE)?;
    let missing = || Problem::not_found("There is no finalized invoice with this id.");
    let charge = app.store.charge(&id).await?.ok_or_else(missing)?;
    let attempts = app.store.attempts(&id).await?;
    Ok(Answer(ChargeView::new(charge, Some(attempts))))
}

/// Pay an invoice
///
/// Charges one invoice now and answers what came of it: `paid`, `failed` with its reason, or `in_progress` where Stripe
/// gave no clear answer; then it is found out by itself. Needs an Idempotency-Key.
#[utoipa::path(post, path = "/v1/invoices/{id}/pay", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`"),
           ("Idempotency-Key" = String, Header, description = "The same for every retry of this request")),
    responses((status = 200, body = ChargeView), (status = 202, body = ChargeView),
        (status = 409, description = "It is paid already, or its state does not allow it")))]
pub(crate) async fn pay(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    if by.request.is_none() {
        let detail = "A payment is not asked for twice by mistake: send an Idempotency-Key.";
        return Err(Problem::new(&kind::IDEMPOTENCY_KEY_REQUIRED, detail));
    }
    expect_id(&id, prefix::INVOICE)?;
    show(&app, charge::pay(&app, &id, &by).await?).await
}

/// Retry a charge
///
/// Has the workers try now, instead of when the ladder says.
#[utoipa::path(post, path = "/v1/invoices/{id}/retry", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`")), responses((status = 202, body = ChargeView)))]
pub(crate) async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    expect_id(&id, prefix::INVOICE)?;
    let (_, view) = show(&app, charge::retry(&app, &id, &by).await?).await?;
    Ok((StatusCode::ACCEPTED, view))
}

/// Void an invoice
///
/// Cancels a finalized invoice for ever. What stood on it stays counted as billed, until somebody asks to rebill it.
#[utoipa::path(post, path = "/v1/invoices/{id}/void", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`")),
    responses((status = 200, body = ChargeView), (status = 202, body = ChargeView)))]
pub(crate) async fn void(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    expect_id(&id, prefix::INVOICE)?;
    show(&app, charge::void(&app, &id, &by).await?).await
}

/// Mark an invoice uncollectible
///
/// Nobody expects it to be paid any more, though it may be. Nothing is tried again by itself.
#[utoipa::path(post, path = "/v1/invoices/{id}/mark_uncollectible", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`")),
    responses((status = 200, body = ChargeView), (status = 202, body = ChargeView)))]
pub(crate) async fn mark_uncollectible(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    expect_id(&id, prefix::INVOICE)?;
    show(&app, charge::mark_uncollectible(&app, &id, &by).await?).await
}

/// Rebill an invoice
///
/// Makes what stood on a void invoice owed again, or what somebody took off one before it was finalized. The difference
/// is on the next draft, once.
#[utoipa::path(post, path = "/v1/invoices/{id}/rebill", tag = "Charges",
    params(("id" = String, Path, description = "`ot_inv_…`")), responses((status = 200, body = ChargeView)))]
pub(crate) async fn rebill(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    expect_id(&id, prefix::INVOICE)?;
    show(&app, charge::rebill(&app, &id, &by).await?).await
}

async fn show(app: &App, asked: Asked) -> Result<(StatusCode, Answer<ChargeView>), Problem> {
    let attempts = app.store.attempts(&asked.invoice.id).await?;
    let status = if asked.charge.state == "in_progress" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Answer(ChargeView::new(asked.charge, Some(attempts)))))
}
