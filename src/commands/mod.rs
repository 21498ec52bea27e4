//! The command line, one file per subcommand.

mod cli;
pub mod demo;
mod doctor;
pub mod jobs;
pub mod keys;
mod log;
pub mod open;
mod sandbox;
pub mod serve;
mod sync;
pub mod usage;
mod webhooks;

pub use cli::{Cli, run};
