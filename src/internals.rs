//! Internals: what the tests, the benches and the simulation use beyond the public surface. Nothing here is stable.

pub mod app {
    pub use crate::app::*;
}
pub mod clock {
    pub use crate::clock::*;
}
pub mod commands {
    pub use crate::commands::*;
}
pub mod config {
    pub use crate::config::*;
}
pub mod failpoint {
    pub use crate::failpoint::*;
}
pub mod http {
    pub use crate::http::*;
}
pub mod jobs {
    pub use crate::jobs::*;
}
pub mod mailer {
    pub use crate::mailer::*;
}
pub mod metrics {
    pub use crate::metrics::*;
}
pub mod outgoing {
    pub use crate::outgoing::*;
}
pub mod sheet {
    pub use opentab_input::csv::*;
}
pub mod store {
    pub use crate::store::*;
}
pub mod stripe {
    pub use crate::stripe::*;
}
pub mod workflows {
    pub use crate::workflows::*;
}
#[cfg(feature = "mutants")]
pub use crate::mutant::{Mutant, activate, is_active};
