//! All SQL, and no decisions: who has recorded what.

mod db;

pub use db::{Db, Location, Sql, Tx, both, split};

/// The database, with one method per thing that is asked of it or recorded in it. Methods that must happen together
/// take a [`Tx`].
#[derive(Clone, Debug)]
pub struct Store {
    /// The connections; shared by every clone.
    pub db: Db,
}
