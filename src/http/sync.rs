//! Sync over HTTP: bring drafts in step now, or say what that would change.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{FromQuery, Pairs, Query, shown};
use super::kind;
use super::problem::Problem;
use crate::app::App;
use crate::clock::from_ms;
use crate::store::Job;
use crate::store::customers::{Customer, CustomerState};
use crate::workflows::ask::{Asked, ask_for_changed, settled, sync_now};
use crate::workflows::preview::{Preview, preview};

/// How long a request waits for the outcome before it answers that the sync is still running.
const WAIT: Duration = Duration::from_secs(25);
/// Previews in one answer.
const MOST_PREVIEWS: i64 = 500;

/// What to sync.
#[derive(Debug)]
pub(super) struct What {
    customer: Option<String>,
    invoice: Option<String>,
    dry_run: bool,
}

impl FromQuery for What {
    fn from_query(pairs: &mut Pairs) -> Result<Self, Problem> {
        let what = What {
            customer: pairs.id("customer")?,
            invoice: pairs.id("invoice")?,
            dry_run: pairs.flag("dry_run")?.unwrap_or(false),
        };
        match (&what.customer, &what.invoice) {
            (Some(_), Some(_)) => {
                Err(Problem::invalid("invoice", "exclusive", "name a customer or an invoice, not both"))
            }
            _ => Ok(what),
        }
    }
}

/// A sync, or what it would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sync)]
pub(super) struct SyncView {
    /// Always `sync`.
    #[schema(example = "sync")]
    pub object: &'static str,
    /// `done`, `running`, or `dry_run`.
    pub status: &'static str,
    /// The running job, where one customer was asked for.
    pub id: Option<String>,
    pub dry_run: bool,
    /// Customers whose draft is in step now.
    pub done: usize,
    /// Customers whose sync is still running.
    pub running: usize,
    /// Customers whose sync did not go through, and why. It is tried again where that can help.
    pub failed: Vec<FailedSync>,
    /// The drafts that were asked for, as they are now.
    pub invoices: Vec<DraftView>,
}

/// A sync that did not go through.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FailedSync {
    pub customer: String,
    /// `queued` where it is tried again, `failed` where it waits for a human.
    pub state: String,
    pub error: String,
}

/// A customer's current invoice, and the difference to what is owed where it was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DraftView {
    pub id: String,
    pub customer: String,
    pub stripe_invoice_id: Option<String>,
    pub state: String,
    pub currency: String,
    /// In minor units: what Stripe holds; in a dry run, what the draft would come to.
    pub total: i64,
    pub(crate) synced_at: Option<DateTime<Utc>>,
    /// In a dry run: the changes that a sync would make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<ChangeView>>,
}

/// A line that a sync would change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeView {
    /// `add`, `update` or `remove`.
    pub change: &'static str,
    pub item: String,
    /// In minor units, as Stripe has it.
    pub from: Option<i64>,
    /// In minor units, as it would be.
    pub to: Option<i64>,
    pub description: String,
}

/// Sync now
///
/// Brings drafts in step with what is owed: of one customer, of one invoice's customer, or of all that changed. Waits up
/// to 25 seconds; 202 says that it is still running. With `dry_run=true` it answers the difference and changes nothing.
#[utoipa::path(post, path = "/sync", tag = "Sync",
    params(("customer" = Option<String>, Query, description = "`ot_cus_…` or your own id"),
           ("invoice" = Option<String>, Query, description = "`ot_inv_…` or `in_…`"),
           ("dry_run" = Option<bool>, Query, description = "Answer the difference, change nothing")),
    responses((status = 200, body = SyncView), (status = 202, body = SyncView),
        (status = 409, description = "Stripe does not know this customer any more")))]
pub(super) async fn start(
    State(app): State<App>,
    Query(what): Query<What>,
) -> Result<(StatusCode, Answer<SyncView>), Problem> {
    let customer = named(&app, &what).await?;
    let view = match (customer, what.dry_run) {
        (Some(customer), true) => dry(vec![preview_of(&app, &customer).await?]),
        (None, true) => dry(all_previews(&app).await?),
        (Some(customer), false) => one(&app, &customer).await?,
        (None, false) => all(&app).await?,
    };
    let status = if view.status == "running" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Answer(view)))
}

/// The customer that the request is about; none for all.
async fn named(app: &App, what: &What) -> Result<Option<Customer>, Problem> {
    let (id, found) = match (&what.customer, &what.invoice) {
        (Some(id), _) => (id, app.store.customer_by_any_id(id).await?),
        (None, Some(id)) => {
            let invoice = if id.starts_with("in_") {
                app.store.invoice_at_stripe(id).await?
            } else {
                app.store.invoice(id).await?
            };
            match invoice {
                Some(invoice) => (id, app.store.customer(&invoice.customer_id).await?),
                None => (id, None),
            }
        }
        (None, None) => return Ok(None),
    };
    found.map(Some).ok_or_else(|| Problem::not_found(format!("There is no `{}`.", shown(id))))
}

async fn one(app: &App, customer: &Customer) -> Result<SyncView, Problem> {
    let asked = sync_now(app, &customer.id, WAIT).await?;
    let now = app.store.customer(&customer.id).await?;
    if now.is_some_and(|customer| customer.state == CustomerState::GoneAtStripe) {
        return Err(gone(customer));
    }
    let (asked, invoices) = match asked {
        Asked::NotYet(job) => return Err(not_yet(&job)),
        done @ Asked::Done(_) => (done, vec![draft(app, customer).await?]),
        running @ Asked::Running(_) => (running, vec![draft(app, customer).await?]),
    };
    Ok(match asked {
        Asked::Done(job) => view("done", Some(job.id), 1, 0, Vec::new(), invoices),
        Asked::Running(job) | Asked::NotYet(job) => view("running", Some(job.id), 0, 1, Vec::new(), invoices),
    })
}

/// The sync ran, and found that there is nobody to bill.
fn gone(customer: &Customer) -> Problem {
    let detail = format!(
        "Stripe does not know the customer of `{}` (deleted there, or a mistyped id): nothing is billed until \
         another stripe_customer_id is set.",
        customer.id
    );
    Problem::new(&kind::INVALID_STATE, detail)
}

async fn all(app: &App) -> Result<SyncView, Problem> {
    let jobs = ask_for_changed(app).await?;
    let jobs = settled(app, &jobs, WAIT).await?;
    let running = jobs.iter().filter(|job| is_running(job)).count();
    let not_through: Vec<&Job> = jobs.iter().filter(|job| job.state != "done" && !is_running(job)).collect();
    if let Some(job) = not_through.iter().find(|job| upstream_down(job)) {
        return Err(not_yet(job));
    }
    let failed: Vec<FailedSync> = not_through.iter().map(|job| failed(job)).collect();
    let done = jobs.len() - running - failed.len();
    let status = if running > 0 { "running" } else { "done" };
    Ok(view(status, None, done, running, failed, Vec::new()))
}

fn is_running(job: &Job) -> bool {
    job.state == "running" || (job.state == "queued" && job.last_error.is_none())
}

fn upstream_down(job: &Job) -> bool {
    let error = job.last_error.as_deref().unwrap_or("");
    error.starts_with("stripe_unavailable") || error.starts_with("stripe_unauthorized")
}

fn failed(job: &Job) -> FailedSync {
    FailedSync {
        customer: job.subject.clone(),
        state: job.state.clone(),
        error: job.last_error.clone().unwrap_or_default(),
    }
}

fn view(
    status: &'static str,
    id: Option<String>,
    done: usize,
    running: usize,
    failed: Vec<FailedSync>,
    invoices: Vec<DraftView>,
) -> SyncView {
    SyncView { object: "sync", status, id, dry_run: status == "dry_run", done, running, failed, invoices }
}

fn dry(invoices: Vec<DraftView>) -> SyncView {
    view("dry_run", None, 0, 0, Vec::new(), invoices)
}

/// Why a sync did not go through, as its job recorded it: `code: message`.
fn not_yet(job: &Job) -> Problem {
    let error = job.last_error.as_deref().unwrap_or("");
    let (code, message) = error.split_once(": ").unwrap_or(("", error));
    let kept = "What was recorded is kept, and it is tried again.";
    match code {
        "stripe_unauthorized" => Problem::new(&kind::UPSTREAM_AUTH_FAILED, message),
        "stripe_refused" => Problem::new(&kind::UPSTREAM_REFUSED, message),
        "storage" => Problem::new(&kind::STORAGE_UNAVAILABLE, "The database did not answer.").retry_after(2),
        "unbillable" | "not_found" => Problem::new(&kind::INVALID_STATE, message),
        _ => Problem::new(&kind::UPSTREAM_UNAVAILABLE, format!("{message}. {kept}")).retry_after(5),
    }
}

async fn draft(app: &App, customer: &Customer) -> Result<DraftView, Problem> {
    let invoice = app.store.current_invoice(&customer.id).await?;
    let invoice = invoice.ok_or_else(|| Problem::not_found("The customer has no current invoice."))?;
    Ok(DraftView {
        id: invoice.id,
        customer: customer.id.clone(),
        stripe_invoice_id: invoice.stripe_invoice_id,
        state: invoice.state,
        currency: invoice.currency,
        total: invoice.total,
        synced_at: invoice.synced_at.map(from_ms),
        changes: None,
    })
}

async fn preview_of(app: &App, customer: &Customer) -> Result<DraftView, Problem> {
    let found = preview(app, customer).await?;
    let Preview { invoice, plan, total } =
        found.ok_or_else(|| Problem::not_found("The customer has no current invoice."))?;
    let added = plan.add.iter().map(|to| change("add", &to.key, None, Some(to.amount), &to.description));
    let updated = plan
        .update
        .iter()
        .map(|(from, to)| change("update", &to.key, Some(from.amount), Some(to.amount), &to.description));
    let removed = plan
        .remove
        .iter()
        .map(|from| change("remove", &from.key, Some(from.amount), None, &from.description));
    Ok(DraftView {
        id: invoice.id,
        customer: customer.id.clone(),
        stripe_invoice_id: invoice.stripe_invoice_id,
        state: invoice.state,
        currency: invoice.currency,
        total,
        synced_at: invoice.synced_at.map(from_ms),
        changes: Some(removed.chain(updated).chain(added).collect()),
    })
}

fn change(
    change: &'static str,
    item: &str,
    from: Option<i64>,
    to: Option<i64>,
    description: &str,
) -> ChangeView {
    ChangeView { change, item: item.to_owned(), from, to, description: description.to_owned() }
}

async fn all_previews(app: &App) -> Result<Vec<DraftView>, Problem> {
    let mut previews = Vec::new();
    for changed in app.store.customers_to_sync(app.clock.now_ms(), "", MOST_PREVIEWS).await? {
        if let Some(customer) = app.store.customer(&changed.customer_id).await? {
            previews.push(preview_of(app, &customer).await?);
        }
    }
    Ok(previews)
}
