//! The handles that everything works with, built once.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::{Clock, Ids};
use crate::config::Config;
use crate::mailer::Mailer;
use crate::metrics::Metrics;
use crate::outgoing::Outgoing;
use crate::store::{Probe, Store};
use crate::stripe::Stripe;
use crate::workflows::ingest::Ingest;

/// Opentab's handles. Cloned freely; every clone is the same application.
pub type App = Arc<Handles>;

/// What [`App`] points to.
#[derive(Debug)]
pub struct Handles {
    pub config: Config,
    pub clock: Clock,
    pub ids: Ids,
    pub store: Store,
    pub stripe: Stripe,
    /// E-mail.
    pub mailer: Mailer,
    /// Requests to addresses that users have named.
    pub outgoing: Outgoing,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
    /// Stores usage, many requests in one commit.
    pub ingest: Ingest,
    /// Remembers whether the database took the last write that asked for it.
    pub probe: Probe,
    /// Wakes the workers: there is something to do.
    pub wake: Notify,
    /// Wakes those that charge, and nobody else: one waker wakes one waiter.
    pub wake_charges: Notify,
}

/// Puts the handles together, inside a Tokio runtime: usage is written by a task of its own.
pub fn build(config: Config, clock: Clock, ids: Ids, store: Store, stripe: Stripe) -> App {
    let mailer = Mailer::of(&config.mail, clock.clone());
    let outgoing = Outgoing::to_public_and(&config.webhook_allow);
    build_with(config, clock, ids, store, stripe, mailer, outgoing)
}

/// The same, with another mailer and other ways out: for tests and simulations.
pub fn build_with(
    config: Config,
    clock: Clock,
    ids: Ids,
    store: Store,
    stripe: Stripe,
    mailer: Mailer,
    outgoing: Outgoing,
) -> App {
    let metrics = Arc::new(Metrics::new());
    let ingest = Ingest::start(store.clone(), clock.clone(), metrics.clone(), config.ingest_writers);
    let stripe = stripe.observed_by(metrics.clone());
    let (wake, wake_charges) = (Notify::new(), Notify::new());
    Arc::new(Handles {
        config,
        clock,
        ids,
        store,
        stripe,
        mailer,
        outgoing,
        metrics,
        ingest,
        probe: Probe::default(),
        wake,
        wake_charges,
    })
}
