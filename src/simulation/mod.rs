//! Simulation: whole histories of a company, with everything going wrong that can, from one seed each.
//!
//! The real workflows run on real SQLite in memory against the sandbox, in one process and in simulated time. One
//! seeded scheduler chooses who moves next and what fails; a process may die at every gate. Afterwards every promise is
//! checked against what the sandbox and the database hold.

mod chance;
mod company;
mod engine;
mod faults;
pub mod gates;
mod promises;
mod random;
mod story;
mod trace;
mod transport;
mod world;

pub use engine::Engine;
pub use random::{Outcome, history};
pub use trace::Trace;
