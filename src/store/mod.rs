//! All SQL, and no decisions: who has recorded what.

mod cycles;
mod db;
mod incidents;
mod intents;
mod invoices;
mod jobs;
mod leases;
mod statements;
mod settings;
mod stripe_events;

pub use cycles::{ChangedCycle, CustomerToSync};
pub use db::{Db, Location, Sql, Tx, both, split};
pub use incidents::NewIncident;
pub use intents::{Effect, Ending, Intent, NewIntent};
pub use invoices::{Invoice, Item, LedgerLine, NewInvoice, Seen};
pub use jobs::{Backlog, Job, NewJob};
pub use leases::Lease;
pub use statements::{PricedService, UsageDay};
pub use stripe_events::{NewStripeEvent, StripeEvent};

/// The database, with one method per thing that is asked of it or recorded in it. Methods that must happen together
/// take a [`Tx`].
#[derive(Clone, Debug)]
pub struct Store {
    /// The connections; shared by every clone.
    pub db: Db,
}
