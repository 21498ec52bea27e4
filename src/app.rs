//! The handles that everything works with, built once.

use std::sync::Arc;

use crate::clock::{Clock, Ids};
use crate::config::Config;
use crate::store::Store;
use crate::workflows::ingest::Ingest;

/// Opentab's handles. Cloned freely; every clone is the same application.
pub type App = Arc<Handles>;

/// What [`App`] points to.
#[derive(Debug)]
pub struct Handles {
    pub config: Config,
    pub clock: Clock,
    pub ids: Ids,
    pub store: Store,
    pub ingest: Ingest,
}
