//! Failpoints: the edges of a database transaction, where a simulation may let this process wait, fail or die.
//!
//! The product only names them. What happens there is the choice of a hook that the simulation sets; without the feature
//! `failpoints` there is no hook, and nothing happens.

/// Where in a transaction this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Before a read outside a transaction.
    Read,
    /// Before a transaction begins, or before a statement that is a transaction of its own.
    Begin,
    /// Before a transaction is committed.
    Commit,
    /// After the commit: the change is durable, whether or not the caller learns of it.
    Committed,
}

/// Decides what happens at a failpoint.
#[cfg(feature = "failpoints")]
pub(crate) type Hook = fn(Failpoint) -> std::pin::Pin<Box<dyn Future<Output = sqlx::Result<()>> + Send>>;

#[cfg(feature = "failpoints")]
static HOOK: std::sync::OnceLock<Hook> = std::sync::OnceLock::new();

/// Sends every failpoint of this process to `hook`. The first call decides; later calls change nothing.
#[cfg(feature = "failpoints")]
pub fn set_hook(hook: Hook) {
    let _ = HOOK.set(hook);
}

/// Passes a failpoint.
///
/// # Errors
/// The database error that the hook wants to happen here.
#[cfg(feature = "failpoints")]
pub(crate) async fn pass(at: Failpoint) -> sqlx::Result<()> {
    match HOOK.get() {
        Some(hook) => hook(at).await,
        None => Ok(()),
    }
}

/// Passes a failpoint: nothing happens in the binary that users run.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) async fn pass(_at: Failpoint) -> sqlx::Result<()> {
    Ok(())
}
