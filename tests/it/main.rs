//! Promises, through HTTP and the sandbox.

mod api;
mod bad_inputs;
mod bad_webhooks;
mod billing_page;
mod dashboard;
mod drift;
mod endings;
mod folded;
mod health;
mod late;
mod life;
mod quarter;
mod refusals;
mod replicas;
mod server;
mod silence;
#[path = "../support/stripe_spec.rs"]
mod stripe_spec;
mod sync_cost;
mod tab;
mod unknown;
mod usage;
mod webhooks;
