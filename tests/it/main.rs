//! Promises, through HTTP and the sandbox.

mod api;
mod bad_inputs;
mod billing_page;
mod life;
mod server;
#[path = "../support/stripe_spec.rs"]
mod stripe_spec;
mod tab;
mod usage;
