//! Faults: everything that can go wrong at a gate, and how often it does in one history.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::LazyLock;

use sqlx::error::{DatabaseError, ErrorKind};

use super::chance::Chance;
use super::gates::Decision;
use crate::gates::Edge;
use opentab::internals::mailer::Outcome;
use opentab_sandbox::Fault;

/// What goes wrong at a gate while the process lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Injection {
    Storage(StorageFault),
    /// Stripe's own, or the network's on the way to it and back.
    Stripe(&'static str, Fault),
    /// Of the mail server, or of the user's own application.
    Delivery(DeliveryFault),
}

impl Injection {
    /// One short name each, for counts and for the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Injection::Storage(fault) => fault.name(),
            Injection::Stripe(name, _) => name,
            Injection::Delivery(fault) => fault.name(),
        }
    }

    /// Whether it can happen to this operation.
    fn fits(&self, operation: &str) -> bool {
        !matches!(self, Injection::Stripe(_, fault) if !fault.fits(operation))
    }
}

/// How whoever is written to does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryFault {
    /// A mail server's 4xx, a web server's 503.
    Later,
    /// A mail server's 5xx, a web server's 400.
    Never,
    /// It is taken, and no answer comes.
    Silent,
}

impl DeliveryFault {
    const ALL: &[DeliveryFault] = &[DeliveryFault::Later, DeliveryFault::Never, DeliveryFault::Silent];

    fn name(self) -> &'static str {
        match self {
            DeliveryFault::Later => "delivery_later",
            DeliveryFault::Never => "delivery_never",
            DeliveryFault::Silent => "delivery_silent",
        }
    }

    /// As SMTP has it.
    pub(crate) fn of_mail(self) -> Outcome {
        let why = self.name().to_owned();
        match self {
            DeliveryFault::Later => Outcome::TryLater(why),
            DeliveryFault::Never => Outcome::Refused(why),
            DeliveryFault::Silent => Outcome::Unknown(why),
        }
    }

    /// As HTTP has it.
    pub(crate) fn of_webhook(self) -> Result<u16, String> {
        match self {
            DeliveryFault::Later => Ok(503),
            DeliveryFault::Never => Ok(400),
            DeliveryFault::Silent => Err(self.name().to_owned()),
        }
    }
}

/// What a database does when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageFault {
    /// SQLITE_BUSY.
    Busy,
    /// SQLITE_FULL.
    DiskFull,
    /// SQLITE_IOERR.
    IoError,
    /// PostgreSQL's 40001.
    Serialization,
    /// The connection is gone. In COMMIT: nobody knows whether it took effect.
    ConnectionLost,
}

impl StorageFault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            StorageFault::Busy => "sqlite_busy",
            StorageFault::DiskFull => "disk_full",
            StorageFault::IoError => "io_error",
            StorageFault::Serialization => "serialization_failure",
            StorageFault::ConnectionLost => "connection_lost_in_commit",
        }
    }

    /// Those that can show at this edge.
    pub(crate) fn at(edge: Edge) -> &'static [StorageFault] {
        use StorageFault::{Busy, ConnectionLost, DiskFull, IoError, Serialization};
        match edge {
            Edge::Read => &[IoError],
            Edge::Begin => &[Busy, IoError],
            Edge::Commit => &[DiskFull, IoError, Busy, Serialization, ConnectionLost],
            // It is committed, and the answer never came.
            Edge::Committed => &[ConnectionLost],
            Edge::Send | Edge::Deliver | Edge::Answered => &[],
        }
    }

    /// As sqlx would say it.
    pub(crate) fn error(self) -> sqlx::Error {
        let (code, message) = match self {
            StorageFault::Busy => ("5", "database is locked"),
            StorageFault::DiskFull => ("13", "database or disk is full"),
            StorageFault::IoError => ("10", "disk I/O error"),
            StorageFault::Serialization => ("40001", "could not serialize access"),
            StorageFault::ConnectionLost => {
                let lost = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection lost");
                return sqlx::Error::Io(lost);
            }
        };
        sqlx::Error::Database(Box::new(Failure { code, message }))
    }
}

#[derive(Debug)]
struct Failure {
    code: &'static str,
    message: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for Failure {}

impl DatabaseError for Failure {
    fn message(&self) -> &str {
        self.message
    }
    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.code))
    }
    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// What can happen to a request, and to a webhook. Left out is what somebody does at Stripe meanwhile (an object deleted,
/// a list that shifts), because people do that here by themselves and it is accounted for; and a search, which no workflow
/// asks for. Keys are pruned when they are a day old, as Stripe promises, and not before.
static STRIPE: LazyLock<(Vec<Injection>, Vec<Injection>)> = LazyLock::new(|| {
    let of_others = [
        "object_deleted",
        "list_grows",
        "list_shrinks",
        "search_stale",
        "webhook_before_answer",
        "keys_pruned",
    ];
    let kinds = Fault::kinds().into_iter().filter(|(name, _)| !of_others.contains(&name.as_str()));
    let injections = kinds.map(|(name, fault)| Injection::Stripe(name.leak(), fault));
    let is_webhook =
        |injection: &Injection| matches!(injection, Injection::Stripe(_, fault) if fault.is_about_webhooks());
    injections.partition(|injection| !is_webhook(injection))
});

/// Everything that can be injected where a request goes out to Stripe.
pub(crate) fn at_send() -> &'static [Injection] {
    &STRIPE.0
}

/// Everything that can happen to a webhook on its way.
pub(crate) fn of_webhooks() -> &'static [Injection] {
    &STRIPE.1
}

/// What differs only in words that no workflow reads: how a connection broke, and which limit was hit. By chance they all
/// happen; at every single gate one of each is enough.
const LIKE_ANOTHER: &[&str] = &[
    "dropped_before",
    "timed_out_before",
    "timed_out_after",
    "answer_cut",
    "rate_limited",
    "rate_limited_global_rate",
    "rate_limited_endpoint_rate",
    "rate_limited_global_concurrency",
    "rate_limited_endpoint_concurrency",
    "retry_after_503",
    "should_retry_false",
    "unknown_billing_reason",
    "declined_lost_card",
    "declined_expired_card",
];

/// Everything that can go wrong at this edge, where this operation is sent; one of each kind, a crash apart.
pub(crate) fn at(edge: Edge, operation: &str) -> Vec<Injection> {
    match edge {
        Edge::Send => {
            let one_of_each = at_send()
                .iter()
                .filter(|fault| !LIKE_ANOTHER.contains(&fault.name()) && fault.fits(operation));
            one_of_each.cloned().collect()
        }
        Edge::Deliver => DeliveryFault::ALL.iter().map(|fault| Injection::Delivery(*fault)).collect(),
        Edge::Answered => Vec::new(),
        edge => StorageFault::at(edge).iter().map(|fault| Injection::Storage(*fault)).collect(),
    }
}

/// Everything that can be injected anywhere.
pub(crate) fn all() -> Vec<Injection> {
    let edges = [Edge::Read, Edge::Begin, Edge::Commit, Edge::Committed, Edge::Deliver];
    edges.into_iter().flat_map(|edge| at(edge, "")).chain(at_send().iter().cloned()).collect()
}

/// How often what goes wrong in one history, in a million. Drawn per seed, some of them never: a history in which
/// everything fails all the time shows less than one with a single kind of trouble.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    pub crash: u64,
    pub storage: u64,
    pub stripe: u64,
    pub delivery: u64,
    send: Vec<Injection>,
}

impl Rates {
    /// Nothing goes wrong.
    pub(crate) fn none() -> Rates {
        Rates::default()
    }

    /// This seed's own mixture.
    pub(crate) fn drawn(chance: &mut Chance) -> Rates {
        let crash = *chance.pick(&[0, 0, 2_000, 10_000, 40_000]);
        let storage = *chance.pick(&[0, 0, 5_000, 40_000]);
        let stripe = *chance.pick(&[0, 100_000, 300_000, 600_000]);
        let mut send = at_send().to_vec();
        // Often one kind of trouble at a time, sometimes all of them.
        if chance.hits(600_000) {
            let kept = 1 + chance.index(4);
            while send.len() > kept {
                let gone = chance.index(send.len());
                send.remove(gone);
            }
        }
        let delivery = *chance.pick(&[0, 0, 100_000, 500_000]);
        Rates { crash, storage, stripe, delivery, send }
    }

    /// What happens to whoever passes this edge.
    pub(crate) fn draw(&self, edge: Edge, operation: &str, chance: &mut Chance) -> Decision {
        if chance.hits(self.crash) {
            return Decision::Crash;
        }
        let faults = StorageFault::at(edge);
        if !faults.is_empty() && chance.hits(self.storage) {
            return Decision::Inject(Injection::Storage(*chance.pick(faults)));
        }
        if edge == Edge::Deliver && chance.hits(self.delivery) {
            return Decision::Inject(Injection::Delivery(*chance.pick(DeliveryFault::ALL)));
        }
        if edge == Edge::Send && chance.hits(self.stripe) {
            let fitting: Vec<_> = self.send.iter().filter(|fault| fault.fits(operation)).collect();
            if !fitting.is_empty() {
                return Decision::Inject((*chance.pick(&fitting)).clone());
            }
        }
        Decision::Go
    }
}
