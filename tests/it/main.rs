//! Promises, through HTTP and the sandbox.

mod api;
mod bad_inputs;
mod server;
mod usage;
