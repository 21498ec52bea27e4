//! Gates: the edges of this process, where a simulation may let it wait, fail or die. In what users ship they are nothing.

/// What a process is about to do, or has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Before a read of the database.
    Read,
    /// Before a transaction begins, or a statement that is one by itself.
    Begin,
    /// Before a transaction is committed.
    Commit,
    /// After it was committed: what was done is done, whether or not anybody hears of it.
    Committed,
    /// Before a request goes out to Stripe.
    Send,
    /// Before an e-mail or a webhook of ours goes out.
    Deliver,
    /// After an answer has come, of Stripe or of whoever was written to, before anybody has looked at it.
    Answered,
}

#[cfg(feature = "simulation")]
pub use crate::simulation::gates::storage;

/// Passes an edge of the database.
#[cfg(not(feature = "simulation"))]
pub async fn storage(_edge: Edge) -> sqlx::Result<()> {
    Ok(())
}
