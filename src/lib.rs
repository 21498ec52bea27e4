//! Opentab keeps an open tab for every customer on Stripe. This page is the map of the house.
//!
//! Arrows point one way: `billing <- store, stripe, mailer, outgoing <- workflows <- jobs, http <- commands`. Crates beside
//! this one: `webhooks`, `billing` and `input` are pure, `sandbox` stands in for Stripe, `simulation` drives this crate and is never
//! used by it.

#[macro_use]
mod mutant;

mod app;
mod clock;
pub mod commands;
mod config;
mod failpoint;
mod http;
mod jobs;
mod mailer;
mod metrics;
mod outgoing;
mod pages;
mod store;
mod stripe;
mod workflows;

#[doc(hidden)]
pub mod internals;
