//! Promises, through HTTP and the sandbox.
#![allow(clippy::disallowed_methods, reason = "a database and a process of its own for each test")]

mod amounts;
mod api;
mod bad_inputs;
mod billing_page;
mod canaries;
mod charge_commands;
mod charging;
mod console;
mod dashboard;
mod drift;
mod dunning;
mod emails;
mod endings;
mod folded;
mod health;
mod imports;
mod invoice_emails;
mod late;
mod life;
mod others;
mod outgoing;
mod payday;
mod quarter;
mod refusals;
mod replicas;
mod report;
mod routes;
#[path = "../support/secrets.rs"]
mod secrets;
mod server;
mod silence;
#[path = "../../sandbox/tests/support/stripe_spec.rs"]
mod stripe_spec;
mod sync_cost;
mod sync_http;
mod tab;
mod unknown;
mod usage;
mod webhooks;
