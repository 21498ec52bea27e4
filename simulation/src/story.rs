//! Story: what people, their programs, Stripe and the schedule do in a world, one act each.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Duration, NaiveDate, Utc};
use serde_json::json;

use super::company::{Batch, Company, Cost, Counts, Customer, Event, METERS, Service};
use super::faults::Injection;
use super::world::{Report, SCHEDULE, World};
use super::{gates, promises};
use opentab::internals::app::App;
use opentab::internals::http::webhooks::believe;
use opentab::internals::jobs::{self, Tick, schedule};
use opentab::internals::store::both;
use opentab::internals::workflows::billing_view::billing_view;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::catalog::{self, NewMeter};
use opentab::internals::workflows::customers::{self, NewCustomer};
use opentab::internals::workflows::ingest::Outcome;
use opentab::internals::workflows::outgoing::{self, NewEndpoint};
use opentab::internals::workflows::receive::receive;
use opentab::internals::workflows::services::{self, NewService};
use opentab::internals::workflows::{ask, charge, poll};
use opentab_billing::CollectionMethod;
use opentab_billing::{Aggregation, Currency, PriceTerms};
use opentab_input::usage_event::NewEvent;
use opentab_sandbox::Delivery;

/// When somebody looks after what is due while everything goes right, in seconds.
const QUARTER_OF_AN_HOUR: [i64; 5] = [1, 29, 90, 240, 540];

/// So often everything is looked after, however quiet it is.
const LOOKS: usize = 1;

/// A customer to set up.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub zone: chrono_tz::Tz,
    pub anchor: u8,
    pub currency: &'static str,
    pub send_invoice: bool,
    /// A meter's index, and what it costs.
    pub services: Vec<(Option<usize>, Cost)>,
}

/// A price of its own, and its service from a day on.
async fn serve(
    app: &App,
    customer: &Customer,
    currency: &str,
    meter_id: Option<String>,
    cost: &Cost,
    since: NaiveDate,
) -> anyhow::Result<Service> {
    let by = By::operator();
    let terms: PriceTerms = serde_json::from_value(cost.terms(currency))?;
    let name = format!("Price {}", customer.services.len());
    let price = catalog::create_price(app, name, meter_id, terms, &by).await?;
    let new = NewService {
        customer_id: customer.id.clone(),
        price_id: price.id.clone(),
        from: Some(since),
        until: None,
    };
    let service = services::create(app, new, &by).await?;
    Ok(Service { id: service.id, price_id: price.id, meter: None, cost: cost.clone(), since })
}

/// A world and the company in it.
pub(crate) struct Story<'e> {
    pub world: World<'e>,
    pub company: Company,
    /// Webhooks that wait for somebody to carry them, in the order in which Stripe handed them out.
    pub mail: Vec<Delivery>,
    /// What the schedule of this company does: everything, or what its drafts and charges need.
    pub ticks: Vec<Tick>,
}

impl<'e> Story<'e> {
    /// Sets the company up, while nothing goes wrong.
    pub(crate) fn begin(world: World<'e>, plans: &[Plan]) -> anyhow::Result<Story<'e>> {
        let ticks = jobs::TICKS.to_vec();
        let mut story = Story { world, company: Company::default(), mail: Vec::new(), ticks };
        let Some(app) = story.world.any_app() else { anyhow::bail!("nobody is up") };
        let by = By::operator();
        let now = story.world.now();
        let company = story.world.aside(async {
            let mut company = Company::default();
            let mut meters = Vec::new();
            for meter in &METERS {
                let aggregation = match meter.counts {
                    Counts::Sum => Aggregation::Sum,
                    Counts::Max => Aggregation::Max,
                    Counts::Last => Aggregation::Last,
                };
                let new = NewMeter {
                    event_name: meter.name.to_owned(),
                    display_name: meter.name.to_owned(),
                    aggregation,
                    decimals: 0,
                    unit_label: String::new(),
                };
                meters.push(catalog::create_meter(&app, new, &by).await?.id);
            }
            for (no, plan) in plans.iter().enumerate() {
                let canary = format!("canary-{no}-of-{}", story.world.shape.seed);
                let new = NewCustomer {
                    name: format!("Customer {canary}"),
                    email: story.world.charges().then(|| format!("{no}@customers.example")),
                    external_id: Some(canary.clone()),
                    currency: Currency::parse(plan.currency).map_err(|error| anyhow::anyhow!("{error}"))?,
                    time_zone: plan.zone,
                    anchor_day: plan.anchor,
                    collection_method: if plan.send_invoice {
                        CollectionMethod::SendInvoice
                    } else {
                        CollectionMethod::ChargeAutomatically
                    },
                    days_until_due: 30,
                    locale: None,
                    active_from: None,
                    active_until: None,
                    stripe_customer_id: None,
                    metadata: BTreeMap::new(),
                };
                let made = customers::create(&app, new, &by).await?;
                let mut customer = Customer {
                    id: made.id.clone(),
                    canary,
                    zone: plan.zone,
                    anchor: u32::from(plan.anchor),
                    services: Vec::new(),
                    since: now.date_naive(),
                    at_stripe: Vec::new(),
                    gone: false,
                    was_gone: false,
                    card: None,
                };
                customer.since = customer.cycle_of(customer.day_of(now));
                for (meter, cost) in &plan.services {
                    let meter_id = meter.map(|meter| meters[meter].clone());
                    let since = customer.since;
                    let service = serve(&app, &customer, plan.currency, meter_id, cost, since).await?;
                    customer.services.push(Service { meter: *meter, ..service });
                }
                company.customers.push(customer);
            }
            if story.world.charges() {
                let url = "https://application.example/hooks".to_owned();
                let new = NewEndpoint { url, description: String::new(), events: vec!["*".to_owned()] };
                outgoing::create(&app, new, &by).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            }
            anyhow::Ok(company)
        })?;
        story.company = company;
        Ok(story)
    }

    /// A flat fee more for a customer, from the first day of a cycle on.
    pub(crate) fn charge_a_fee(
        &mut self,
        customer: usize,
        amount: i64,
        since: NaiveDate,
    ) -> anyhow::Result<()> {
        let Some(app) = self.world.any_app() else { anyhow::bail!("nobody is up") };
        let whose = &self.company.customers[customer];
        let service = self.world.aside(serve(&app, whose, "usd", None, &Cost::Flat(amount), since))?;
        self.company.customers[customer].services.push(service);
        Ok(())
    }

    // What programs do.

    /// Somebody used something: events that are sent together from now on, until they are answered.
    pub(crate) fn consume(&mut self, events: &[(usize, usize, i64, DateTime<Utc>)]) -> usize {
        let first = self.company.events.len();
        for (customer, meter, quantity, at) in events {
            self.company.events.push(Event {
                id: format!("event-{:05}", self.company.events.len()),
                customer: *customer,
                meter: *meter,
                quantity: *quantity,
                at: *at,
                accepted: 0,
                acknowledged: false,
            });
        }
        let events = (first..self.company.events.len()).collect();
        self.company.batches.push(Batch { events, answered: false, under_way: false });
        self.company.batches.len() - 1
    }

    /// Sends a batch, whether or not it was sent before.
    pub(crate) fn send(&mut self, process: usize, batch: usize) {
        let Some(app) = self.world.app(process) else { return };
        let events = self.company.batches[batch].events.iter().map(|at| &self.company.events[*at]);
        let events: Vec<String> = events
            .map(|event| {
                json!({ "id": event.id, "customer": self.company.customers[event.customer].id,
                    "meter": METERS[event.meter].name, "quantity": event.quantity,
                    "timestamp": event.at.to_rfc3339(), "correction": event.quantity < 0 })
                .to_string()
            })
            .collect();
        self.company.batches[batch].under_way = true;
        let lost = Report::Usage { batch, answer: None };
        self.world.begin(process, "usage", lost, async move {
            let read: Result<Vec<NewEvent<'_>>, _> =
                events.iter().map(|text| serde_json::from_str(text)).collect();
            let read = match read {
                Ok(read) => read,
                Err(error) => return Report::Wrong(format!("an event cannot be read: {error}")),
            };
            let ids = read.iter().map(|event| event.id.to_string());
            let answer = app.ingest.ingest(&read).await.ok().map(|outcomes| ids.zip(outcomes).collect());
            Report::Usage { batch, answer }
        });
    }

    /// Looks at what a customer is shown.
    pub(crate) fn look(&mut self, process: usize, customer: usize) {
        let Some(app) = self.world.app(process) else { return };
        let id = self.company.customers[customer].id.clone();
        self.world.begin(process, "look", Report::Nothing, async move {
            let Ok(Some(row)) = app.store.customer_by_any_id(&id).await else { return Report::Nothing };
            let Ok(view) = billing_view(&app, &row).await else { return Report::Nothing };
            Report::Shown { customer, text: serde_json::to_string(&view).unwrap_or_default() }
        });
    }

    // What Stripe does.

    /// Takes the webhooks that Stripe has for us now.
    pub(crate) fn collect_mail(&mut self) {
        self.mail.extend(self.world.sandbox.deliveries_due());
    }

    /// The same, and something happens to one of them on its way.
    pub(crate) fn collect_mail_with(&mut self, fault: &Injection) {
        let Injection::Stripe(name, webhook) = fault else { return };
        self.world.sandbox.faults().next("*", webhook.clone());
        self.collect_mail();
        self.world.sandbox.faults().clear();
        gates::with(|gates| *gates.injected.entry(name).or_default() += 1);
    }

    /// Carries a webhook to a process.
    pub(crate) fn deliver(&mut self, process: usize, delivery: Delivery) {
        let Some(app) = self.world.app(process) else {
            self.world.sandbox.delivery_done(&delivery.id, None);
            return;
        };
        let what = format!("webhook {}", delivery.event_type);
        let lost = Report::Webhook { delivery: delivery.id.clone(), status: 0, foreign: false };
        let true_clock = self.world.true_clock();
        self.world.begin(process, what, lost, async move {
            let headers = delivery.headers.iter().filter_map(|(name, value)| {
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
            });
            let headers: HeaderMap = headers.collect();
            // To a clock that is behind, what is replayed is not old yet.
            let on_time = app.clock.now_ms() >= true_clock.now_ms();
            let status = match believe(&app, &headers, delivery.body.as_bytes()) {
                Err(_) => 400,
                Ok((event, payload)) => match receive(&app, &event, payload).await {
                    Ok(_) => 200,
                    Err(_) => 503,
                },
            };
            let foreign = delivery.id.ends_with("_forged") || on_time && delivery.id.ends_with("_replayed");
            Report::Webhook { delivery: delivery.id, status, foreign }
        });
    }

    // What the service does by itself.

    /// A worker that does what is due, and then nothing more.
    pub(crate) fn work(&mut self, process: usize) {
        let Some(app) = self.world.app(process) else { return };
        self.world.begin(process, "worker", Report::Nothing, async move {
            // A queue that cannot be read is looked at again.
            let _ = jobs::run_due(&app).await;
            Report::Nothing
        });
    }

    /// Leaves out of the schedule what neither drafts nor charges wait for, unless it is chosen.
    pub(crate) fn ticks_at_least(&mut self, mut chosen: impl FnMut(&World<'_>) -> bool) {
        let mut needed = vec![schedule::SYNC_CHANGED, schedule::CLOSE_DUE, schedule::POLL_EVENTS];
        if self.world.charges() {
            needed.extend([schedule::CHARGE_ALL, schedule::RETRY_NETWORK, schedule::RETRY_FUNDS]);
        }
        let world = &self.world;
        self.ticks.retain(|tick| needed.contains(&tick.name) || chosen(world));
    }

    /// Every tick of the schedule.
    pub(crate) fn tick(&mut self, process: usize) {
        let Some(app) = self.world.app(process) else { return };
        let ticks = self.ticks.clone();
        self.world.begin(process, SCHEDULE, Report::Nothing, async move {
            for tick in ticks {
                let _ = jobs::tick(&app, tick).await;
            }
            Report::Nothing
        });
    }

    /// A person asks for a customer's sync.
    pub(crate) fn ask_for_sync(&mut self, process: usize, customer: usize) {
        let Some(app) = self.world.app(process) else { return };
        let id = self.company.customers[customer].id.clone();
        self.world.begin(process, "sync now", Report::Nothing, async move {
            let _ = ask::sync_now(&app, &id, std::time::Duration::ZERO).await;
            Report::Nothing
        });
    }

    /// An operator wants an invoice to be charged now: the last one that is not paid.
    pub(crate) fn ask_for_payment(&mut self, process: usize, customer: usize) {
        let Some(app) = self.world.app(process) else { return };
        let id = self.company.customers[customer].id.clone();
        self.world.begin(process, "pay now", Report::Nothing, async move {
            let unpaid = both(
                "select invoice_id from charge where customer_id = $1 and state not in ('paid', 'void') order by id desc",
            );
            if let Ok(Some((invoice,))) = app.store.db.opt::<(String,)>(unpaid, (id,)).await {
                let _ = charge::pay(&app, &invoice, &By::operator()).await;
            }
            Report::Nothing
        });
    }

    /// An operator asks for the events that never came.
    pub(crate) fn ask_for_events(&mut self, process: usize) {
        let Some(app) = self.world.app(process) else { return };
        self.world.begin(process, "poll now", Report::Nothing, async move {
            let _ = poll::poll_events(&app).await;
            Report::Nothing
        });
    }

    // How the world goes on.

    /// Takes in what actors came back with.
    pub(crate) fn hear(&mut self, reports: Vec<Report>) {
        for report in reports {
            match report {
                Report::Nothing => {}
                Report::Usage { batch, answer } => self.answered(batch, answer),
                Report::Webhook { delivery, status, foreign } => {
                    if foreign && status == 200 {
                        self.world.wrong(5, format!("the webhook {delivery} was believed"));
                    }
                    let status = Some(status).filter(|status| *status > 0);
                    self.world.sandbox.delivery_done(&delivery, status);
                }
                Report::Shown { customer, text } => promises::shown(self, customer, &text),
                Report::Wrong(why) => self.world.wrong(7, why),
            }
        }
    }

    fn answered(&mut self, batch: usize, answer: Option<Vec<(String, Outcome)>>) {
        gates::note(|| format!("batch {batch} is answered {answer:?}"));
        self.company.batches[batch].under_way = false;
        let Some(outcomes) = answer else { return };
        self.company.batches[batch].answered = true;
        for (id, outcome) in outcomes {
            let Some(event) = self.company.events.iter_mut().find(|event| event.id == id) else { continue };
            match outcome {
                Outcome::Accepted { .. } => (event.accepted, event.acknowledged) = (event.accepted + 1, true),
                Outcome::Duplicate => event.acknowledged = true,
                other => self.world.wrong(2, format!("event {id} is answered {other:?}")),
            }
        }
    }

    /// Lets one actor go on to its next gate, if there is one.
    pub(crate) fn step(&mut self, index: usize) {
        if index >= self.world.actors() {
            return;
        }
        let reports = self.world.step(index);
        self.hear(reports);
    }

    /// Lets everybody go on until nobody is under way, in the order in which they began.
    pub(crate) fn run_all(&mut self) {
        gates::with(|gates| gates.straight = true);
        while self.world.actors() > 0 {
            self.step(0);
        }
        gates::with(|gates| gates.straight = false);
    }

    pub(crate) fn kill(&mut self, process: usize) {
        let reports = self.world.kill(process);
        self.hear(reports);
    }

    /// SIGTERM: what is under way is finished, nothing more begins.
    pub(crate) fn stop(&mut self, process: usize) {
        while let Some(index) = self.world.actor_of(process) {
            self.step(index);
        }
        if self.world.is_up(process) {
            gates::with(|gates| *gates.injected.entry("sigterm").or_default() += 1);
            self.kill(process);
        }
    }

    /// Whoever is down starts again.
    pub(crate) fn raise(&mut self) -> anyhow::Result<()> {
        for no in 0..self.world.process_count() {
            if !self.world.is_up(no) {
                self.world.start(no)?;
            }
        }
        Ok(())
    }

    /// Sends again what was never answered.
    pub(crate) fn send_unanswered(&mut self, process: usize) {
        for batch in 0..self.company.batches.len() {
            let waiting = &self.company.batches[batch];
            if !waiting.answered && !waiting.under_way {
                self.send(process, batch);
            }
        }
    }

    /// Everything goes right for a quarter of an hour: what was held up has to come to its end by then.
    pub(crate) fn heal(&mut self) -> anyhow::Result<()> {
        gates::note(|| "nothing goes wrong any more".to_owned());
        gates::with(|gates| {
            gates.rates = super::faults::Rates::none();
            gates.shot = None;
        });
        self.world.sandbox.faults().clear();
        self.world.sandbox.release_held_webhooks();
        self.raise()?;
        for process in 0..self.world.process_count() {
            let skew = self.world.shape.skews.get(process).copied().unwrap_or_default();
            self.world.skew(process, skew);
        }
        self.run_all();
        for (round, seconds) in QUARTER_OF_AN_HOUR.iter().enumerate() {
            let process = round % self.world.process_count();
            self.round(process);
            for customer in 0..self.company.customers.len() {
                if self.company.customers[customer].gone {
                    self.link_anew(customer);
                }
            }
            self.world.pass(Duration::seconds(*seconds));
            if round >= LOOKS && self.is_quiet() {
                break;
            }
        }
        self.round(0);
        // What has only just become due gets its time too.
        while self.just_due() {
            self.world.pass(Duration::seconds(301));
            self.round(0);
        }
        Ok(())
    }

    /// Whether nobody waits for anything: the rest of the quarter of an hour would bring nothing new.
    fn is_quiet(&self) -> bool {
        let unheard = self.world.stripe("GET", "/events?delivery_success=false&limit=1", "");
        let heard = self.mail.is_empty() && unheard["data"].as_array().is_some_and(Vec::is_empty);
        let answered = self.company.batches.iter().all(|batch| batch.answered);
        let here = self.company.customers.iter().all(|customer| !customer.gone);
        let (store, now) = (self.world.engine.store.clone(), self.world.now().timestamp_millis());
        let waiting = self.world.aside(async move {
            // What goes on in an hour has nothing to do with this quarter of one.
            let live = both(
                "select count(*) from job where state <> 'done' and (state <> 'queued' or run_at <= $1)",
            );
            let soon = (now + 3_600_000,);
            Ok::<_, sqlx::Error>((store.waiting(now).await?, store.db.one::<(i64,)>(live, soon).await?.0))
        });
        let idle = waiting.is_ok_and(|(waiting, jobs)| {
            jobs + waiting.intents_open + waiting.changed_customers + waiting.stripe_events_pending == 0
        });
        heard && answered && here && idle
    }

    /// Whether somebody's cycle was over, and its grace, a few minutes ago, or will be in a moment: one look finds that,
    /// and the next one what has become of it.
    fn just_due(&self) -> bool {
        let (now, grace) = (self.world.now(), self.grace());
        let due = |customer: &Customer, at: DateTime<Utc>| customer.cycle_of(customer.day_of(at - grace));
        let (before, after) = (now - Duration::seconds(610), now + Duration::seconds(10));
        self.company.customers.iter().any(|customer| due(customer, before) != due(customer, after))
    }

    /// How long a cycle that is over waits for late usage.
    pub(crate) fn grace(&self) -> Duration {
        let grace = self.world.any_app().map(|app| app.config.grace).unwrap_or_default();
        Duration::from_std(grace).unwrap_or_default()
    }

    /// One round of ordinary life: mail, usage, the schedule, work.
    pub(crate) fn round(&mut self, process: usize) {
        self.collect_mail();
        for delivery in std::mem::take(&mut self.mail) {
            self.deliver(process, delivery);
        }
        self.send_unanswered(process);
        self.run_all();
        self.tick(process);
        self.run_all();
        self.work(process);
        self.run_all();
    }

    /// Moves on to when every cycle that runs now is over and its grace with it, and lets that be seen to.
    pub(crate) fn close_the_books(&mut self) -> anyhow::Result<()> {
        self.world.sandbox.release_held_webhooks();
        let now = self.world.now();
        let ends = self.company.customers.iter().map(|customer| {
            let cycle = customer.cycle_of(customer.day_of(now));
            customer.start_of(customer.next_cycle(cycle))
        });
        let last = ends.max().unwrap_or(now);
        self.world.pass(last + self.grace() + Duration::seconds(60) - now);
        self.heal()
    }
}
