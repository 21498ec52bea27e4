//! Simulation: whole histories of a company, with everything going wrong that can, from one seed each.
//!
//! The real workflows run on real SQLite in memory against the sandbox, in one process and in simulated time. One
//! seeded scheduler chooses who moves next and what fails; a process may die at every gate. Afterwards every promise is
//! checked against what the sandbox and the database hold.

mod case;
mod chance;
mod company;
mod engine;
mod faults;
mod gates;
mod humans;
mod money;
mod mutants;
mod office;
mod promises;
mod random;
mod runner;
mod scenarios;
mod story;
mod trace;
mod transport;
mod world;

pub use case::{Case, exhaustive};
pub use engine::Engine;
pub use mutants::{Hunt, hunt};
pub use runner::{Failure, Tally, attempt, run_all};
pub use scenarios::SCENARIOS;
pub use trace::Trace;
