//! Writer: what waits is stored in one transaction, answered, and so on; requests share the wait for the disk.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::IngestError;
use super::directory::Directory;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::usage::{Known, RecordError, Recorded, record};
use opentab_input::usage_event::UsageRow;

/// Events that may wait or be under way. Beyond it requests are refused, so that memory and waiting stay bounded.
const MOST_WAITING: usize = 65_536;

/// Events in one transaction, give or take a request: larger ones gain nothing and let everybody wait.
const MOST_IN_GROUP: usize = 8_192;

/// How often a transaction is tried again that lost against another one.
const MOST_TRIES: usize = 10;

/// Takes usage in. Cloned freely; every clone feeds the same writers.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
    directory: Directory,
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Request>,
    waiting: Arc<Mutex<mpsc::UnboundedReceiver<Request>>>,
    stop: tokio_util::sync::CancellationToken,
    writers: TaskTracker,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({} events of room)", self.0.room.available_permits())
    }
}

/// This one event would take its day's total out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TotalOverflow;

/// What became of one event that was written.
pub(super) type Written = Result<Recorded, TotalOverflow>;

type Answer = Result<Vec<Written>, IngestError>;

struct Request {
    rows: Vec<UsageRow>,
    answer: oneshot::Sender<Answer>,
    /// Given back when the request has been answered.
    _room: OwnedSemaphorePermit,
}

impl Ingest {
    /// Starts so many writers. One is right on SQLite, which has one writer anyway; needs a Tokio runtime.
    pub fn start(store: Store, clock: Clock, metrics: Arc<Metrics>, writers: usize) -> Ingest {
        let ingest = Ingest::idle(store, clock, metrics, MOST_WAITING);
        ingest.start_writers(writers);
        ingest
    }

    /// Takes events in, but stores none before writers are started.
    pub(super) fn idle(store: Store, clock: Clock, metrics: Arc<Metrics>, most_waiting: usize) -> Ingest {
        let (queue, waiting) = mpsc::unbounded_channel();
        Ingest(Arc::new(Inner {
            store,
            clock,
            metrics,
            directory: Directory::default(),
            room: Arc::new(Semaphore::new(most_waiting)),
            queue,
            waiting: Arc::new(Mutex::new(waiting)),
            stop: tokio_util::sync::CancellationToken::new(),
            writers: TaskTracker::new(),
        }))
    }

    pub(super) fn start_writers(&self, writers: usize) {
        let inner = &self.0;
        for _ in 0..writers.max(1) {
            let writer = Writer {
                store: inner.store.clone(),
                clock: inner.clock.clone(),
                waiting: inner.waiting.clone(),
                stop: inner.stop.clone(),
                known: Known::Unlikely,
            };
            inner.writers.spawn(writer.run());
        }
        inner.writers.close();
    }

    /// Refuses what comes from now on and waits until everything that was taken is stored and answered.
    pub(crate) async fn drain(&self) {
        self.0.stop.cancel();
        self.0.writers.wait().await;
    }

    /// Events that could be taken in right now.
    pub fn room(&self) -> usize {
        self.0.room.available_permits()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Waits until the rows are stored, and says of each what became of it.
    pub(super) async fn write(&self, rows: Vec<UsageRow>) -> Answer {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if self.0.stop.is_cancelled() {
            return Err(IngestError::Stopping);
        }
        let size = u32::try_from(rows.len()).map_err(|_| IngestError::Busy)?;
        let room = self.0.room.clone().try_acquire_many_owned(size).map_err(|_| IngestError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { rows, answer, _room: room };
        self.0.queue.send(request).map_err(|_| IngestError::Stopping)?;
        answered.await.unwrap_or(Err(IngestError::StorageUnavailable))
    }
}

struct Writer {
    store: Store,
    clock: Clock,
    waiting: Arc<Mutex<mpsc::UnboundedReceiver<Request>>>,
    stop: tokio_util::sync::CancellationToken,
    /// What the last transaction found: resent events come in runs.
    known: Known,
}

impl Writer {
    async fn run(mut self) {
        while let Some(group) = self.next_group().await {
            self.settle(group).await;
        }
    }

    /// Everything that waits, up to a limit; none when it is time to stop and nothing is left.
    async fn next_group(&self) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock().await;
        let first = tokio::select! {
            biased;
            first = waiting.recv() => first,
            () = self.stop.cancelled() => {
                waiting.close();
                waiting.recv().await
            }
        }?;
        let mut events = first.rows.len();
        let mut group = vec![first];
        while events < MOST_IN_GROUP
            && let Ok(next) = waiting.try_recv()
        {
            events += next.rows.len();
            group.push(next);
        }
        Some(group)
    }

    /// Stores a group and answers each of its requests. One that cannot be stored must not take its neighbours along,
    /// so a group that fails is stored request by request.
    async fn settle(&mut self, group: Vec<Request>) {
        let rows: Vec<&UsageRow> = group.iter().flat_map(|request| &request.rows).collect();
        match self.store(&rows).await {
            Ok(recorded) => answer_all(group, recorded),
            Err(error) if is_down(&error) => refuse_all(group, &error),
            Err(_) => {
                for request in group {
                    let rows: Vec<&UsageRow> = request.rows.iter().collect();
                    let answer = self.store_apart(&rows).await;
                    // Whoever asked may have gone away.
                    _ = request.answer.send(answer);
                }
            }
        }
    }

    /// Stores the rows of one request; where a total overflows, in halves, until the event that does it stands alone.
    async fn store_apart(&mut self, rows: &[&UsageRow]) -> Answer {
        let mut written = Vec::with_capacity(rows.len());
        let mut left = vec![rows];
        while let Some(rows) = left.pop() {
            match self.store(rows).await {
                Ok(recorded) => written.extend(recorded.into_iter().map(Ok)),
                Err(RecordError::Overflow) if rows.len() == 1 => written.push(Err(TotalOverflow)),
                Err(RecordError::Overflow) => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    left.extend([second, first]);
                }
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Ok(written)
    }

    /// One durable transaction.
    async fn store(&mut self, rows: &[&UsageRow]) -> Result<Vec<Recorded>, RecordError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_store(rows).await {
                Err(RecordError::SomeKnown) => self.known = Known::Likely,
                Err(RecordError::Database(error)) if lost_a_race(&error) && tries < MOST_TRIES => {}
                Err(error) => return Err(error),
                Ok(recorded) => {
                    if !recorded.contains(&Recorded::Duplicate) {
                        self.known = Known::Unlikely;
                    }
                    return Ok(recorded);
                }
            }
        }
    }

    async fn try_store(&self, rows: &[&UsageRow]) -> Result<Vec<Recorded>, RecordError> {
        let mut tx = self.store.db.begin().await?;
        let recorded = record(&mut tx, rows, self.clock.now_ms(), self.known).await?;
        let committed = tx.commit().await;
        mutant!(AckBeforeCommit, let committed = committed.or(Ok(())));
        committed?;
        Ok(recorded)
    }
}

fn answer_all(group: Vec<Request>, recorded: Vec<Recorded>) {
    let mut recorded = recorded.into_iter().map(Ok);
    for request in group {
        let answer = recorded.by_ref().take(request.rows.len()).collect();
        _ = request.answer.send(Ok(answer));
    }
}

fn refuse_all(group: Vec<Request>, error: &RecordError) {
    let error = unavailable(error);
    for request in group {
        _ = request.answer.send(Err(error));
    }
}

fn unavailable(error: &RecordError) -> IngestError {
    tracing::error!(%error, "Could not store usage events");
    IngestError::StorageUnavailable
}

/// Whether it is the database that is in trouble, and not what was asked of it.
fn is_down(error: &RecordError) -> bool {
    match error {
        RecordError::Database(sqlx::Error::Database(error)) => {
            let code = error.code().unwrap_or_default();
            match code.len() {
                // PostgreSQL: connection, resources, operator, system.
                5 => ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
                // SQLite, without the finer half of its code: busy, read-only, I/O, corrupt, full, no database.
                _ => code.parse().is_ok_and(|code: i32| [5, 8, 10, 11, 13, 26].contains(&(code & 0xff))),
            }
        }
        RecordError::Database(_) => true,
        RecordError::Overflow | RecordError::SomeKnown => false,
    }
}

/// PostgreSQL asks to try again: serialization failure, or deadlock.
fn lost_a_race(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "40001" || code == "40P01")
}
