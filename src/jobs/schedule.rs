//! The schedule: ticks that only enqueue. A slot row makes each happen once over all replicas.

use std::time::Duration;

use chrono::Datelike;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::prefix;
use crate::store::NewJob;
use crate::workflows::poll;

/// Brings every changed draft in step; every `OPENTAB_SYNC_EVERY`.
pub const SYNC_CHANGED: &str = "sync_changed";
/// Closes what is due. Each invoice has its own due time, in its customer's zone; this only looks.
pub const CLOSE_DUE: &str = "close_due";
/// Sees to it that everybody who is billed for the month that is over has their amounts and their draft.
pub const GENERATE_MONTH: &str = "generate_month";
/// Charges whatever is past due; on the first of the month, by UTC. Each charge has a time of its own as well.
pub const CHARGE_ALL: &str = "charge_all";
/// Takes up what failed because Stripe could not be reached, and tries whose end nobody knows.
pub const RETRY_NETWORK: &str = "retry_network";
/// Takes up what failed for want of funds and is due again.
pub const RETRY_FUNDS: &str = "retry_funds";
/// Asks Stripe for events that never arrived.
pub const POLL_EVENTS: &str = poll::POLL;
/// Listens whether Stripe has gone silent, and writes down what was read of it.
pub(crate) const LISTEN: &str = "listen";
/// Compares ledger and drafts with what Stripe holds; every `OPENTAB_RECONCILE_EVERY`.
pub(crate) const RECONCILE: &str = "reconcile";
/// Forgets what is no longer needed.
pub(crate) const PRUNE: &str = "prune";

/// Something that happens every so often.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Also the kind of the job that it enqueues.
    pub name: &'static str,
    every: Every,
}

#[derive(Clone, Copy, Debug)]
enum Every {
    Span(Duration),
    /// On the first of each month, by UTC. It is looked at every hour.
    Month,
    /// `OPENTAB_SYNC_EVERY`.
    Sync,
    /// `OPENTAB_RECONCILE_EVERY`.
    Reconcile,
}

impl Tick {
    /// How often.
    pub fn every(&self, app: &App) -> Duration {
        match self.every {
            Every::Span(every) => every,
            Every::Month => Duration::from_secs(3_600),
            Every::Sync => app.config.sync_every,
            Every::Reconcile => app.config.reconcile_every,
        }
    }

    /// The slot that this moment lies in, by its first millisecond.
    fn slot(&self, app: &App) -> i64 {
        let now = app.clock.now();
        if let Every::Month = self.every {
            let first = now.date_naive().with_day(1).unwrap_or(now.date_naive());
            return first.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
        }
        let (now, every) = (now.timestamp_millis(), (self.every(app).as_millis() as i64).max(1));
        now - now.rem_euclid(every)
    }
}

const fn tick_every(name: &'static str, seconds: u64) -> Tick {
    Tick { name, every: Every::Span(Duration::from_secs(seconds)) }
}

/// Every tick that there is.
pub const TICKS: &[Tick] = &[
    Tick { name: SYNC_CHANGED, every: Every::Sync },
    tick_every(CLOSE_DUE, 60),
    Tick { name: GENERATE_MONTH, every: Every::Month },
    Tick { name: CHARGE_ALL, every: Every::Month },
    tick_every(RETRY_NETWORK, 300),
    tick_every(RETRY_FUNDS, 86_400),
    tick_every(POLL_EVENTS, 600),
    tick_every(LISTEN, 300),
    Tick { name: RECONCILE, every: Every::Reconcile },
    tick_every(PRUNE, 86_400),
];

/// Ticks until it is told to stop. What was missed while nobody ran is caught up at once.
pub(crate) async fn run_schedule(app: App, stop: CancellationToken) -> Result<(), JobSchedulerError> {
    let mut scheduler = JobScheduler::new().await?;
    for entry in TICKS {
        tick_and_log(&app, *entry).await;
        let (app, entry) = (app.clone(), *entry);
        let job = Job::new_repeated_async(entry.every(&app), move |_, _| {
            let app = app.clone();
            Box::pin(async move { tick_and_log(&app, entry).await })
        })?;
        scheduler.add(job).await?;
    }
    scheduler.start().await?;
    stop.cancelled().await;
    scheduler.shutdown().await
}

async fn tick_and_log(app: &App, entry: Tick) {
    if let Err(error) = tick(app, entry).await {
        tracing::error!(tick = entry.name, "The schedule could not enqueue {}: {error}", entry.name);
    }
}

/// Enqueues a tick's job, unless its slot is taken: by another replica, or by an earlier run.
pub async fn tick(app: &App, entry: Tick) -> sqlx::Result<bool> {
    let now = app.clock.now_ms();
    let every = (entry.every(app).as_millis() as i64).max(1);
    let slot = entry.slot(app);
    if app.store.slot_is_taken(entry.name, slot).await? {
        return Ok(false);
    }
    let mut tx = app.store.db.begin().await?;
    if !tx.take_slot(entry.name, slot).await? {
        return Ok(false);
    }
    let id = app.ids.new_id(prefix::JOB);
    let new = NewJob { id: &id, kind: entry.name, subject: "all", run_at: now, deadline: now + every, now };
    // A tick that failed before is no reason to stay away from the next.
    tx.enqueue_anew(&new).await?;
    tx.commit().await?;
    app.wake.notify_one();
    Ok(true)
}
