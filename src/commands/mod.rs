//! The command line, one file per subcommand.

mod amounts;
mod cli;
mod customers;
pub mod demo;
mod doctor;
pub mod dunning;
mod emails;
mod generate;
mod incidents;
mod invoices;
pub mod jobs;
pub mod keys;
pub mod link;
mod log;
mod month;
pub mod open;
mod out;
mod prices;
mod reconcile;
mod report;
mod sandbox;
pub mod serve;
mod sync;
pub mod usage;
mod webhooks;
mod work_off;

pub use cli::run;
