//! By: who asks for a change, and which ids the change gives out.

use sha2::{Digest, Sha256};

use crate::app::App;
use crate::clock::prefix;
use crate::store::Tx;
use crate::store::audit::{self, Entry};

/// Who asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// An API key's id, `operator`, or a workflow's name.
    pub actor: String,
    /// Of a request that may come again.
    pub request: Option<Repeatable>,
}

/// A request with an Idempotency-Key. What it creates gets ids that follow from it, so that even a crash between the
/// commit and the answer makes nothing twice: the repeated request finds what the first one made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeatable {
    /// When the key was first seen, in unix milliseconds.
    pub(crate) first_seen_ms: i64,
    /// The API key's id and the Idempotency-Key.
    pub key: (String, String),
}

impl By {
    /// The service itself: which part of it acts.
    pub fn service(part: &str) -> By {
        By { actor: part.to_owned(), request: None }
    }

    /// A person at the command line.
    pub fn operator() -> By {
        By { actor: "operator".to_owned(), request: None }
    }

    /// A new id; of a repeated request, the same one again.
    pub fn new_id(&self, app: &App, prefix: &str) -> String {
        match &self.request {
            None => app.ids.new_id(prefix),
            Some(request) => app.ids.derived(prefix, request.first_seen_ms, request.seed(prefix)),
        }
    }

    /// Writes down who did what, in the transaction that does it.
    pub async fn note(
        &self,
        app: &App,
        tx: &mut Tx,
        action: &str,
        subject: &str,
        detail: serde_json::Value,
    ) -> sqlx::Result<()> {
        let id = app.ids.new_id(prefix::AUDIT);
        let at = app.clock.now();
        audit::insert(tx, &Entry { id, at, actor: &self.actor, action, subject, detail }).await
    }
}

impl Repeatable {
    fn seed(&self, prefix: &str) -> u128 {
        let hash = Sha256::digest(format!("{}\0{}\0{prefix}", self.key.0, self.key.1));
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        u128::from_be_bytes(half)
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another object has this value already, and it has to be unique.
    #[error("another object has this {0} already")]
    Taken(&'static str),
    /// There is no such object.
    #[error("there is no such object")]
    Gone,
    /// The request contradicts what is stored: which field, the code for programs, and why for people.
    #[error("{0}: {2}")]
    Refused(&'static str, &'static str, String),
    /// The price has another currency than the customer.
    #[error("the price is in {price}, the customer is billed in {customer}")]
    CurrencyMismatch { price: String, customer: String },
    /// The database did not answer.
    #[error(transparent)]
    Storage(#[from] sqlx::Error),
}
