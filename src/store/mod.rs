//! All SQL, and no decisions: who has recorded what.

#[macro_use]
mod row;

mod amounts;
pub(crate) mod answers;
pub(crate) mod api_keys;
pub(crate) mod audit;
mod billing_view;
mod charges;
mod console;
pub(crate) mod customers;
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
pub(crate) mod meters;
mod outgoing;
mod page;
pub(crate) mod prices;
mod probe;
mod reads;
mod report;
mod schema;
pub(crate) mod services;
mod settings;
mod statements;
mod stripe_events;
pub(crate) mod usage;
mod waiting;

pub(crate) use amounts::LookupBreaker;
pub use amounts::{AmountFilter, LookedUpAmount};
pub(crate) use billing_view::InvoiceFilter;
pub use charges::{Attempt, Charge, NewCharge};
pub(crate) use charges::{AttemptEnd, ChargeFilter, KeyIs, Standing};
pub(crate) use console::{ChargeRow, CustomerFigures, CustomerSearch, NewSession};
pub(crate) use cycles::ChangedCycle;
pub use db::{Db, Location, Row, Sql, both};
pub(crate) use db::{Tx, split};
pub use emails::{EmailFilter, NewEmail, StoredEmail};
pub(crate) use emails::{Reach, STATES as EMAIL_STATES};
pub use imports::CustomerImport;
pub(crate) use imports::ImportRow;
pub(crate) use incidents::Incident;
pub use incidents::NewIncident;
pub(crate) use intents::{Effect, Ending, Intent, KnownIntent, NewIntent};
pub use invoices::{Invoice, Item};
pub(crate) use invoices::{LedgerLine, NewInvoice, Seen};
pub(crate) use jobs::Pool;
pub use jobs::{Job, NewJob};
pub(crate) use leases::Lease;
pub(crate) use outgoing::{DeliveryAttempt, DeliveryFilter, WebhookDelivery, WebhookEndpoint};
pub use page::Page;
pub(crate) use probe::Probe;
pub use report::ReportFilter;
pub(crate) use report::{Ageing, ReportCounts, ReportRow, ReportSort, ReportTotal};
pub(crate) use statements::PricedService;
pub use stripe_events::NewStripeEvent;
pub(crate) use stripe_events::StripeEvent;
pub(crate) use waiting::Waiting;

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
