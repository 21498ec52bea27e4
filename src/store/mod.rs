//! All SQL, and no decisions: who has recorded what.

#[macro_use]
mod row;

mod amounts;
pub mod answers;
pub mod api_keys;
pub mod audit;
mod billing_view;
mod charges;
mod console;
pub mod customers;
mod cycles;
mod db;
mod drift;
mod emails;
mod imports;
mod incidents;
mod intents;
mod invoices;
mod jobs;
mod leases;
pub mod meters;
mod outgoing;
mod page;
pub mod prices;
mod probe;
mod reads;
mod report;
mod schema;
pub mod services;
mod settings;
mod statements;
mod stripe_events;
pub mod usage;
mod waiting;

pub use amounts::{AmountFilter, LookedUpAmount, LookupBreaker};
pub use billing_view::{BillingVersion, InvoiceFilter, LineOfInvoice};
pub use charges::{Attempt, AttemptEnd, Charge, ChargeFilter, KeyIs, NewCharge, Standing};
pub use console::{ChargeRow, CustomerFigures, CustomerSearch, Missed, NewSession};
pub use cycles::{ChangedCycle, CustomerToSync};
pub use db::{Db, Location, Row, Sql, Tx, both, split};
pub use emails::{EmailFilter, NewEmail, Reach, STATES as EMAIL_STATES, StoredEmail};
pub use imports::{CustomerImport, HeldPrice, ImportRow, NamedPrice};
pub use incidents::{Incident, NewIncident};
pub use intents::{Effect, Ending, Intent, KnownIntent, NewIntent};
pub use invoices::{Invoice, Item, LedgerLine, NewInvoice, Seen};
pub use jobs::{Backlog, Job, NewJob, Pool};
pub use leases::Lease;
pub use outgoing::{DeliveryAttempt, DeliveryFilter, WebhookDelivery, WebhookEndpoint};
pub use page::Page;
pub use probe::Probe;
pub use report::{Ageing, ReportCounts, ReportFilter, ReportRow, ReportSort, ReportTotal};
pub use statements::{PricedService, UsageDay};
pub use stripe_events::{NewStripeEvent, StripeEvent};
pub use waiting::Waiting;

/// The database, with one method per thing that is asked of it or recorded in it. Methods that must happen together
/// take a [`Tx`].
#[derive(Clone, Debug)]
pub struct Store {
    /// The connections; shared by every clone.
    pub db: Db,
}

/// A stored text that no longer reads as what it was written from: the database was edited by hand.
fn unreadable(what: &str, error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(format!("stored {what}: {error}").into())
}
