//! Probe: whether the database takes writes, which only a write can tell: a full disk goes on answering questions.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Store;

/// However often somebody asks, it is written no more often than this.
const EVERY_MS: i64 = 5_000;
const NAME: &str = "probed_at";

/// What the last write was worth, and when that was, in unix milliseconds.
#[derive(Debug, Default)]
pub struct Probe(Mutex<Option<(i64, bool)>>);

impl Store {
    /// Whether the database takes writes, within `patience`; believed for five seconds.
    pub(crate) async fn takes_writes(&self, probe: &Probe, now: i64, patience: Duration) -> bool {
        let mut last = probe.0.lock().await;
        if let Some((at, taken)) = *last
            && (at..at + EVERY_MS).contains(&now)
        {
            return taken;
        }
        let taken = match timeout(patience, self.put_setting(NAME, &now.to_string())).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "The database takes no writes: {error}");
                false
            }
            Err(_) => {
                tracing::error!("The database has taken no write for {} s", patience.as_secs());
                false
            }
        };
        *last = Some((now, taken));
        taken
    }
}
