//! World: one simulated company, its processes, the sandbox and time; and who moves next.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use chrono::{DateTime, Duration, Utc};
use serde_json::Value;

use super::chance::Chance;
use super::engine::Engine;
use super::gates::{self, Gates, Turn};
use super::office::Office;
use super::transport::Wire;
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::mailer::Mailer;
use opentab::internals::outgoing::Outgoing;
use opentab::internals::stripe::{Pacer, Request, Stripe};
use opentab::internals::workflows::ingest::Outcome;
use opentab::internals::workflows::receive::REACTED_TO;
use opentab_sandbox::{Options, Sandbox};

pub(crate) const WEBHOOK_SECRET: &str = "whsec_simulation";

/// What the actors are called that only tick.
pub(crate) const SCHEDULE: &str = "schedule";

/// What an actor was about, and what it brought back.
#[derive(Debug)]
pub(crate) enum Report {
    /// Nobody waits for it.
    Nothing,
    /// What became of each event of a batch, by id; none where no answer came.
    Usage { batch: usize, answer: Option<Vec<(String, Outcome)>> },
    /// The status that a webhook was answered with, and whether nobody should have believed it.
    Webhook { delivery: String, status: u16, foreign: bool },
    /// What a page would show, and to whom.
    Shown { customer: usize, text: String },
    /// It should not have come to this.
    Wrong(String),
}

type Work = Pin<Box<dyn Future<Output = Report>>>;

/// Something under way in one of the processes.
struct Actor {
    no: u64,
    process: usize,
    what: String,
    future: Work,
    /// What its client hears when its process dies.
    if_it_dies: Report,
}

/// One replica of the service.
pub(crate) struct Process {
    pub app: App,
    clock: Clock,
    /// How far its clock is ahead of the true time.
    skew: Duration,
}

/// How one world differs from another before anything happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub seed: u64,
    pub processes: usize,
    pub begins: DateTime<Utc>,
    pub settings: BTreeMap<&'static str, String>,
    pub skews: Vec<Duration>,
}

pub(crate) struct World<'e> {
    pub engine: &'e Engine,
    pub sandbox: Sandbox,
    pub wire: Wire,
    /// Who is written to, where the service charges and tells people so.
    pub office: Arc<Office>,
    pub shape: Shape,
    /// The true time, which is Stripe's.
    clock: Clock,
    processes: Vec<Option<Process>>,
    actors: Vec<Actor>,
    begun: u64,
    starts: u64,
    pub wrong: Vec<String>,
}

impl<'e> World<'e> {
    /// An empty company on an empty database; opens the gates on this thread.
    pub(crate) fn new(engine: &'e Engine, shape: Shape, gates: Gates) -> anyhow::Result<World<'e>> {
        engine.reset()?;
        gates::install(gates);
        let clock = Clock::set_at(shape.begins);
        let now = clock.clone();
        let sandbox = Sandbox::new(Options {
            now: Arc::new(move || now.now_ms()),
            seed: shape.seed,
            ..Options::default()
        });
        let url = "http://opentab.test/webhooks/stripe";
        sandbox.create_webhook_endpoint(url, REACTED_TO, Some(WEBHOOK_SECRET.to_owned()));
        let wire = Wire::to(&sandbox);
        let mut world = World {
            engine,
            sandbox,
            wire,
            office: Arc::default(),
            clock,
            processes: Vec::new(),
            actors: Vec::new(),
            begun: 0,
            starts: 0,
            wrong: Vec::new(),
            shape,
        };
        for no in 0..world.shape.processes {
            world.processes.push(None);
            world.start(no)?;
        }
        Ok(world)
    }

    /// Whether the service charges by itself, and not Stripe.
    pub(crate) fn charges(&self) -> bool {
        self.shape.settings.get("OPENTAB_COLLECTION").is_some_and(|who| who == "opentab")
    }

    /// The true time, for whoever has to know it later.
    pub(crate) fn true_clock(&self) -> Clock {
        self.clock.clone()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Moves time on, everybody's by the same.
    pub(crate) fn pass(&mut self, span: Duration) {
        self.clock.move_to(self.clock.now() + span);
        for process in self.processes.iter().flatten() {
            process.clock.move_to(self.clock.now() + process.skew);
        }
        gates::note(|| format!("it is {}", self.clock.now()));
    }

    /// A process's clock is set: so far ahead of the true time, or behind it.
    pub(crate) fn skew(&mut self, no: usize, skew: Duration) {
        if let Some(process) = &mut self.processes[no] {
            process.skew = skew;
            process.clock.move_to(self.clock.now() + skew);
            gates::note(|| format!("the clock of process {no} is {skew} ahead"));
        }
    }

    /// A process of its own begins, or begins again.
    pub(crate) fn start(&mut self, no: usize) -> anyhow::Result<()> {
        let skew = self.shape.skews.get(no).copied().unwrap_or_default();
        let clock = Clock::set_at(self.clock.now() + skew);
        self.starts += 1;
        let ids = Ids::seeded(clock.clone(), (self.shape.seed as u32) ^ (self.starts as u32).rotate_left(24));
        let mut settings: BTreeMap<String, String> = BTreeMap::from([
            ("DATABASE_URL".to_owned(), "sqlite::memory:".to_owned()),
            ("STRIPE_SECRET_KEY".to_owned(), "sk_test_sandbox".to_owned()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), WEBHOOK_SECRET.to_owned()),
            ("OPENTAB_PUBLIC_URL".to_owned(), "http://opentab.test".to_owned()),
            ("OPENTAB_REQUESTS_PER_SECOND".to_owned(), "1000000".to_owned()),
        ]);
        if self.charges() {
            // Nobody listens there: the office takes what is sent.
            let mail = [
                ("OPENTAB_SMTP_URL", "smtp://localhost:1"),
                ("OPENTAB_EMAIL_FROM", "Opentab <billing@opentab.test>"),
                ("OPENTAB_INVOICE_EMAILS", "smtp"),
            ];
            settings.extend(mail.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        settings.extend(self.shape.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let config = Config::from_sources(settings, "").map_err(|error| anyhow::anyhow!("{error}"))?;
        let stripe = Stripe::new(Arc::new(self.wire.clone()), Pacer::unlimited());
        let _inside = self.engine.runtime.enter();
        let (mut mailer, mut outgoing) =
            (Mailer::of(&config.mail, clock.clone()), Outgoing::to_public_and(&config.webhook_allow));
        if self.charges() {
            (mailer, outgoing) = (mailer.by(self.office.clone()), outgoing.by(self.office.clone()));
        }
        let store = self.engine.store.clone();
        let app = app::build_with(config, clock.clone(), ids, store, stripe, mailer, outgoing);
        self.processes[no] = Some(Process { app, clock, skew });
        gates::note(|| format!("process {no} starts"));
        Ok(())
    }

    /// The process dies, with everything under way in it. Answers what its clients hear.
    pub(crate) fn kill(&mut self, no: usize) -> Vec<Report> {
        gates::note(|| format!("process {no} dies"));
        let (dead, alive): (Vec<Actor>, Vec<Actor>) =
            std::mem::take(&mut self.actors).into_iter().partition(|actor| actor.process == no);
        self.actors = alive;
        let process = self.processes[no].take();
        let reports = self.engine.runtime.block_on(async move {
            let reports = dead.into_iter().map(|actor| actor.if_it_dies).collect();
            drop(process);
            // What was in their hands is given back by tasks of the runtime.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            reports
        });
        gates::buried();
        reports
    }

    pub(crate) fn is_up(&self, no: usize) -> bool {
        self.processes[no].is_some()
    }

    pub(crate) fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// A process that is up; the first, where somebody has to be chosen.
    pub(crate) fn app(&self, no: usize) -> Option<App> {
        self.processes[no].as_ref().map(|process| process.app.clone())
    }

    pub(crate) fn any_app(&self) -> Option<App> {
        self.processes.iter().flatten().next().map(|process| process.app.clone())
    }

    /// Begins something in a process; it moves when it is chosen.
    pub(crate) fn begin(
        &mut self,
        process: usize,
        what: impl Into<String>,
        if_it_dies: Report,
        work: impl Future<Output = Report> + 'static,
    ) {
        self.begun += 1;
        let what = what.into();
        gates::note(|| format!("actor {} begins in process {process}: {what}", self.begun));
        self.actors.push(Actor { no: self.begun, process, what, future: Box::pin(work), if_it_dies });
    }

    pub(crate) fn actors(&self) -> usize {
        self.actors.len()
    }

    /// Somebody who is under way in a process.
    pub(crate) fn actor_of(&self, process: usize) -> Option<usize> {
        self.actors.iter().position(|actor| actor.process == process)
    }

    pub(crate) fn actors_in(&self, process: usize, what: &str) -> usize {
        self.actors.iter().filter(|actor| actor.process == process && actor.what == what).count()
    }

    /// Lets one actor go on to its next gate. Answers what it came back with, where it is done; where its process died,
    /// what everybody in it was about.
    pub(crate) fn step(&mut self, index: usize) -> Vec<Report> {
        gates::watch(true);
        gates::begin_turn();
        let actor = &mut self.actors[index];
        let (no, process) = (actor.no, actor.process);
        gates::note(|| format!("actor {no} in process {process}: {}", actor.what));
        gates::with(|gates| gates.by_schedule = actor.what == SCHEDULE);
        let future = &mut actor.future;
        let turn = self.engine.runtime.block_on(async {
            let drive = poll_fn(|context| {
                gates::polling(true, Some(context.waker()));
                let polled = future.as_mut().poll(context);
                gates::polling(false, None);
                match (polled, gates::turn()) {
                    (_, Turn::Crashed) => Poll::Ready(Err(Turn::Crashed)),
                    (Poll::Ready(report), _) => Poll::Ready(Ok(report)),
                    (Poll::Pending, Turn::Working) => Poll::Pending,
                    (Poll::Pending, turn) => Poll::Ready(Err(turn)),
                }
            });
            tokio::time::timeout(std::time::Duration::from_secs(20), drive).await
        });
        gates::watch(false);
        match turn {
            Ok(Ok(report)) => {
                let done = self.actors.remove(index);
                self.engine.runtime.block_on(async move { drop(done.future) });
                vec![report]
            }
            Ok(Err(Turn::Crashed)) => self.kill(process),
            Ok(Err(_)) => Vec::new(),
            Err(_) => {
                let stuck = self.actors.remove(index);
                vec![Report::Wrong(format!(
                    "`{}` neither ended nor came to a gate in 20 seconds",
                    stuck.what
                ))]
            }
        }
    }

    /// Something that the world itself does, unseen by the gates.
    pub(crate) fn aside<T>(&self, work: impl Future<Output = T>) -> T {
        self.engine.runtime.block_on(work)
    }

    /// Asks Stripe as its dashboard would.
    pub(crate) fn stripe(&self, method: &'static str, path: &str, body: &str) -> Value {
        let request = Request {
            method,
            path: format!("/v1{path}"),
            body: Some(body.to_owned()).filter(|_| method == "POST"),
            idempotency_key: None,
        };
        let answer = self.aside(self.wire.exchange(request));
        answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default()
    }

    /// Every object of a list at Stripe.
    pub(crate) fn stripe_list(&self, path: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let after =
                all.last().and_then(|last| last["id"].as_str()).map(|id| format!("&starting_after={id}"));
            let page = self.stripe("GET", &format!("{path}{join}limit=100{}", after.unwrap_or_default()), "");
            let Some(data) = page["data"].as_array() else { return all };
            all.extend(data.iter().cloned());
            if page["has_more"] != true {
                return all;
            }
        }
    }

    /// Chance of this world.
    pub(crate) fn chance<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        gates::with(|gates| draw(&mut gates.chance)).expect("the gates are open as long as the world")
    }

    pub(crate) fn wrong(&mut self, promise: u8, what: impl Into<String>) {
        self.wrong.push(format!("promise {promise}: {}", what.into()));
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        gates::watch(false);
        for no in 0..self.processes.len() {
            self.kill(no);
        }
    }
}
