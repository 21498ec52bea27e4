//! Opentab keeps an open tab for every customer on Stripe. This page is the map of the house.
//!
//! Arrows point one way: `billing <- store, stripe, mailer, outgoing <- workflows <- jobs, http <- commands`.
//! `webhooks` (its own crate) and `sandbox` know none of the others.

pub mod app;
pub mod billing;
pub mod clock;
pub mod commands;
pub mod config;
pub mod gate;
pub mod http;
pub mod jobs;
pub mod mailer;
pub mod metrics;
pub mod outgoing;
pub mod pages;
pub mod planted;
pub mod sandbox;
pub mod sheet;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;
pub mod stripe;
pub mod workflows;
