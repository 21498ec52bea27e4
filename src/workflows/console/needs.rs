//! Needs: everything that waits for a human, whether an incident tells of it or not, why, since when, and what to press.

use std::collections::BTreeSet;

use super::{Button, Thing, When, one, target};
use crate::app::App;
use crate::clock::prefix;
use crate::store::customers::Customer;
use crate::store::{Charge, Incident, Invoice, Job, Page, StripeEvent};
use crate::workflows::WorkflowError;
use crate::workflows::ask::SYNC;
use crate::workflows::remedy::{self, Action, Remedy};

/// Of what waits without an incident, at most so many of each kind are shown.
const MOST: i64 = 50;
/// The incident of an invoice whose customer nobody knows; its events are replayed with it.
pub(super) const UNKNOWN_CUSTOMER: &str = "unknown_customer";
/// Why its events are in quarantine.
const CUSTOMER_IS_UNKNOWN: &str = "the invoice's customer is unknown";

/// One thing that waits for a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Of an incident its id; otherwise of what waits.
    pub id: String,
    pub kind: String,
    pub title: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
    pub since: When,
    /// How often it was seen.
    pub seen: i64,
    /// The invoice, e-mail, endpoint, … that it is about.
    pub about: Option<Thing>,
    pub customer: Option<Thing>,
    /// What is open on the invoice that it is about.
    pub amount: Option<String>,
    pub(crate) buttons: Vec<Button>,
}

/// One page of what needs a human.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// What waits without an incident; on the first page only.
    pub waiting: Vec<Need>,
    pub incidents: Vec<Need>,
    /// The incident after which the next page begins; none on the last.
    pub next: Option<String>,
}

impl Needs {
    /// Whether nobody has to do anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.incidents.is_empty()
    }
}

/// What needs a human, the latest first; `after` is the last incident of the page before, empty for the first page.
pub(crate) async fn needs(app: &App, after: &str) -> Result<Needs, WorkflowError> {
    let page = Page { limit: MOST, after: after.to_owned(), before: String::new() };
    let (incidents, has_more) = app.store.open_incidents(&page).await?;
    let mut needs = Needs::default();
    for incident in &incidents {
        needs.incidents.push(of_incident(app, incident).await?);
    }
    needs.next = incidents.last().filter(|_| has_more).map(|last| last.id.clone());
    if after.is_empty() {
        needs.waiting = waiting(app).await?;
    }
    Ok(needs)
}

/// An incident, with what it is about and what can be pressed now.
pub(super) async fn of_incident(app: &App, incident: &Incident) -> Result<Need, WorkflowError> {
    let found = Found::about(app, &incident.subject).await?;
    let remedy = remedy::remedy(&incident.kind);
    let customer_id = found.customer.as_ref().map(|customer| customer.id.as_str());
    let button = |action: &Action| {
        let subject = target(*action, &incident.id, &incident.subject, customer_id)?;
        found.allows(*action).then(|| Button::new(*action, &subject))
    };
    Ok(Need {
        id: incident.id.clone(),
        kind: incident.kind.clone(),
        title: remedy.map_or_else(|| incident.kind.replace('_', " "), |remedy| remedy.title.to_owned()),
        message: incident.message.clone(),
        advice: remedy.map_or("", |remedy| remedy.advice),
        since: When::new(incident.opened_at, app.clock.now()),
        seen: incident.seen,
        about: found.about.clone(),
        customer: found.customer.as_ref().map(|customer| customer_thing(app, customer)),
        amount: found.invoice.as_ref().and_then(one::open_amount),
        buttons: remedy::actions(&incident.kind).iter().filter_map(button).collect(),
    })
}

/// A way to act upon an incident outside of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub action: Action,
    /// A request of the API.
    pub request: Option<String>,
    pub command: Option<String>,
}

/// What its kind says to do about an incident, whatever became of what it is about.
pub(crate) fn ways(incident: &Incident) -> Vec<Way> {
    let customer = incident.subject.starts_with(prefix::CUSTOMER).then_some(incident.subject.as_str());
    let way = |action: &Action| {
        if *action == Action::Sync && incident.subject.starts_with(prefix::INVOICE) {
            let request = Some(format!("POST /sync?invoice={}", incident.subject));
            return Some(Way { action: *action, request, command: None });
        }
        let about = target(*action, &incident.id, &incident.subject, customer)?;
        Some(Way { action: *action, request: action.request(&about), command: action.command(&about) })
    };
    remedy::actions(&incident.kind).iter().filter_map(way).collect()
}

/// One thing that waits for a human, as programs read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// `incident`, or `waiting` for what waits without one.
    pub object: &'static str,
    /// Of what waits without an incident what one would say; its id and subject are those of what waits.
    pub incident: Incident,
    /// The best first.
    pub ways: Vec<Way>,
}

impl From<Incident> for Listed {
    fn from(incident: Incident) -> Listed {
        Listed { object: "incident", ways: ways(&incident), incident }
    }
}

impl From<Need> for Listed {
    fn from(need: Need) -> Listed {
        let way = |button: Button| Way {
            action: button.action,
            request: button.action.request(&button.subject),
            command: button.action.command(&button.subject),
        };
        let incident = Incident {
            subject: need.id.clone(),
            id: need.id,
            kind: need.kind,
            message: need.message,
            seen: need.seen,
            opened_at: need.since.at,
            last_seen_at: need.since.at,
            resolved_at: None,
        };
        Listed { object: "waiting", incident, ways: need.buttons.into_iter().map(way).collect() }
    }
}

/// One page of all that needs a human, by id: of each kind of thing the newest first. Says whether there is more.
pub(crate) async fn listed(app: &App, page: &Page) -> Result<(Vec<Listed>, bool), WorkflowError> {
    let (incidents, more) = app.store.open_incidents(page).await?;
    let beyond = |need: &Need| {
        (page.after.is_empty() || need.id < page.after) && (page.before.is_empty() || need.id > page.before)
    };
    let mut all: Vec<Listed> = incidents.into_iter().map(Listed::from).collect();
    all.extend(waiting(app).await?.into_iter().filter(beyond).map(Listed::from));
    all.sort_by(|one, other| other.incident.id.cmp(&one.incident.id));
    let limit = usize::try_from(page.limit).unwrap_or(0);
    let too_many = all.len().saturating_sub(limit);
    if page.before.is_empty() {
        all.truncate(limit)
    } else {
        drop(all.drain(..too_many))
    }
    Ok((all, more || too_many > 0))
}

pub(super) fn customer_thing(app: &App, customer: &Customer) -> Thing {
    Thing::customer(app, &customer.id, &customer.name, customer.stripe_customer_id.as_deref())
}

/// What is known of the subject of an incident.
#[derive(Default)]
struct Found {
    about: Option<Thing>,
    invoice: Option<Invoice>,
    charge: Option<Charge>,
    customer: Option<Customer>,
}

impl Found {
    async fn about(app: &App, subject: &str) -> sqlx::Result<Found> {
        let store = &app.store;
        if subject.starts_with(prefix::INVOICE) {
            return Found::invoice(app, subject).await;
        }
        if subject.starts_with(prefix::CUSTOMER) {
            return Ok(Found { customer: store.customer(subject).await?, ..Found::default() });
        }
        if subject.starts_with(prefix::EMAIL) {
            return Found::email(app, subject).await;
        }
        let about = if subject.starts_with(prefix::ENDPOINT) {
            store.endpoint(subject).await?.map(|endpoint| Thing::named(endpoint.url))
        } else {
            subject.contains('_').then(|| stripe_thing(app, subject))
        };
        Ok(Found { about, ..Found::default() })
    }

    async fn invoice(app: &App, id: &str) -> sqlx::Result<Found> {
        let Some(invoice) = app.store.invoice(id).await? else { return Ok(Found::default()) };
        Ok(Found {
            about: Some(one::invoice_thing(app, &invoice)),
            charge: app.store.charge(id).await?,
            customer: app.store.customer(&invoice.customer_id).await?,
            invoice: Some(invoice),
        })
    }

    async fn email(app: &App, id: &str) -> sqlx::Result<Found> {
        let Some(email) = app.store.email(id).await? else { return Ok(Found::default()) };
        let customer = match &email.customer_id {
            Some(id) => app.store.customer(id).await?,
            None => None,
        };
        let name = format!("E-mail ({}) to {}", email.kind.replace('_', " "), email.recipient);
        Ok(Found { about: Some(Thing::named(name)), customer, ..Found::default() })
    }

    /// Whether pressing it could do anything, as things stand.
    fn allows(&self, action: Action) -> bool {
        match (&self.invoice, &self.charge) {
            (Some(invoice), charge) => one::not_now(action, invoice, charge.as_ref()).is_none(),
            _ => true,
        }
    }
}

fn stripe_thing(app: &App, id: &str) -> Thing {
    let kind = match id.split('_').next() {
        Some("in") => "invoices",
        Some("cus") => "customers",
        _ => "events",
    };
    Thing { name: id.to_owned(), page: None, at_stripe: super::at_stripe(app, kind, Some(id)) }
}

/// What waits for a human without an incident that says so.
async fn waiting(app: &App) -> Result<Vec<Need>, WorkflowError> {
    let mut waiting = Vec::new();
    waiting.extend(unauthorized(app).await?);
    waiting.extend(charges(app).await?);
    waiting.extend(jobs(app).await?);
    waiting.extend(events(app).await?);
    waiting.extend(deliveries(app).await?);
    Ok(waiting)
}

/// A need of this kind about a subject, with every button of its remedy.
fn need(app: &App, kind: &str, subject: &str, since: i64, message: String) -> Need {
    let remedy = remedy::remedy(kind);
    let buttons = remedy.map_or(&[][..], |remedy: &Remedy| remedy.actions);
    Need {
        id: subject.to_owned(),
        kind: kind.to_owned(),
        title: remedy.map_or("", |remedy| remedy.title).to_owned(),
        message,
        advice: remedy.map_or("", |remedy| remedy.advice),
        since: When::of_ms(app, since),
        seen: 1,
        about: None,
        customer: None,
        amount: None,
        buttons: buttons.iter().map(|action| Button::new(*action, subject)).collect(),
    }
}

async fn unauthorized(app: &App) -> Result<Option<Need>, WorkflowError> {
    let now = app.clock.now_ms();
    let jobs = app.store.waiting(now).await?.jobs_unauthorized;
    let message = format!("{jobs} jobs wait because Stripe refused the key at their last try.");
    Ok((jobs > 0).then(|| need(app, "stripe_unauthorized", "stripe", now, message)))
}

/// Charges that nobody tries any more, and whose incident somebody has closed.
async fn charges(app: &App) -> Result<Vec<Need>, WorkflowError> {
    let mut found = Vec::new();
    for (invoice_id, message, since) in app.store.charges_in_need(MOST).await? {
        let open = app.store.incidents_about(&invoice_id).await?;
        if open.iter().any(|incident| incident.kind.starts_with("charge_")) {
            continue;
        }
        let about = Found::invoice(app, &invoice_id).await?;
        let message = message.unwrap_or_default();
        let mut need = need(app, "charge_needs_attention", &invoice_id, since, message);
        need.buttons.retain(|button| button.action != Action::Resolve && about.allows(button.action));
        need.amount = about.invoice.as_ref().and_then(one::open_amount);
        need.customer = about.customer.as_ref().map(|customer| customer_thing(app, customer));
        need.about = about.about;
        found.push(need);
    }
    Ok(found)
}

async fn jobs(app: &App) -> Result<Vec<Need>, WorkflowError> {
    let mut found = Vec::new();
    for job in app.store.failed_jobs(MOST).await? {
        if has_a_remedy(app, &job).await? {
            continue;
        }
        let why = job.last_error.as_deref().unwrap_or("nothing was written down");
        let message = format!("{} ({}): {why}", job.kind.replace('_', " "), job.subject);
        let mut need = need(app, "job_failed", &job.id, job.finished_at.unwrap_or(job.created_at), message);
        let about = Found::about(app, &job.subject).await?;
        need.customer = about.customer.as_ref().map(|customer| customer_thing(app, customer));
        (need.about, need.seen) = (about.about, job.attempts.max(1));
        found.push(need);
    }
    Ok(found)
}

/// Where an incident says why a customer's sync has stopped, syncing from there runs this job again.
async fn has_a_remedy(app: &App, job: &Job) -> sqlx::Result<bool> {
    if job.kind != SYNC {
        return Ok(false);
    }
    let open = app.store.incidents_of_customer(&job.subject, MOST).await?;
    Ok(open.iter().any(|incident| remedy::actions(&incident.kind).contains(&Action::Sync)))
}

/// What an incident tells of already is replayed from there.
pub(super) fn has_its_incident(event: &StripeEvent, unknown_customer: bool) -> bool {
    unknown_customer && event.reason.as_deref() == Some(CUSTOMER_IS_UNKNOWN)
}

async fn events(app: &App) -> Result<Vec<Need>, WorkflowError> {
    let unknown_customer = !app.store.subjects_of_incidents(UNKNOWN_CUSTOMER).await?.is_empty();
    let mut found = Vec::new();
    for event in app.store.quarantined_events(MOST).await? {
        if has_its_incident(&event, unknown_customer) {
            continue;
        }
        let why = event.reason.as_deref().unwrap_or("nobody wrote down why");
        let message = format!("{} was put aside: {why}.", event.kind);
        let mut need = need(app, "event_quarantined", &event.id, event.received_at, message);
        need.about = Some(stripe_thing(app, event.object_id.as_deref().unwrap_or(&event.id)));
        found.push(need);
    }
    Ok(found)
}

/// Where an incident tells of the endpoint, it tells of these as well.
async fn deliveries(app: &App) -> Result<Vec<Need>, WorkflowError> {
    let mut told = BTreeSet::new();
    for kind in ["webhook_not_delivered", "webhook_endpoint_disabled"] {
        told.extend(app.store.subjects_of_incidents(kind).await?.into_iter().map(|(subject,)| subject));
    }
    let mut found = Vec::new();
    for missed in app.store.missed_deliveries().await? {
        if told.contains(&missed.endpoint_id) {
            continue;
        }
        let why = missed.last_error.as_deref().unwrap_or("no answer");
        let message = format!("{} events were given up; the last answer was: {why}.", missed.failed);
        let mut need = need(app, "deliveries_failed", &missed.endpoint_id, missed.since, message);
        need.about = Some(Thing::named(missed.url));
        found.push(need);
    }
    Ok(found)
}
