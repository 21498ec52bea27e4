//! Outgoing: requests to addresses that users have named, and the guard that keeps them out of private networks.

mod client;
mod fetch;
mod guard;
mod listener;
pub(crate) mod sign;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub(crate) use client::Client;
pub(crate) use fetch::{FetchError, Fetched, Fetcher};
pub(crate) use guard::Guard;
pub use listener::Listener;

/// A request to somebody else's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// The address that the user named; the guard checks it before a connection opens.
    pub url: String,
    /// Names and values of the headers; for a webhook, the signature is among them.
    pub headers: Vec<(&'static str, String)>,
    /// The exact bytes to send, as they were signed.
    pub body: String,
}

/// Answers [`Poster::post`] some time later: the status, or why no answer came.
pub type PostFuture<'a> = Pin<Box<dyn Future<Output = Result<u16, String>> + Send + 'a>>;

/// Carries requests out, or to what stands in for the servers out there.
pub trait Poster: Send + Sync + fmt::Debug {
    /// Sends once, without following redirects.
    fn post(&self, post: Post) -> PostFuture<'_>;
}

/// Requests out of the house. Cloned freely; every clone is the same.
#[derive(Clone, Debug)]
pub struct Outgoing {
    poster: Arc<dyn Poster>,
    /// Which addresses may be reached.
    pub(crate) guard: Guard,
    /// Reads.
    pub(crate) fetcher: Fetcher,
}

impl Outgoing {
    /// Over the network, to public addresses and to these hosts.
    pub fn to_public_and(allowed: &[String]) -> Outgoing {
        let guard = Guard::new(allowed);
        let fetcher = Fetcher::new(guard.clone());
        Outgoing { poster: Arc::new(Client::new(guard.clone())), guard, fetcher }
    }

    /// The same, by another poster; for tests and simulations.
    pub fn by(self, poster: Arc<dyn Poster>) -> Outgoing {
        Outgoing { poster, ..self }
    }

    /// Sends once. A 2xx is a success; what else comes back is for the caller to judge.
    ///
    /// # Errors
    /// Why no answer came, or why nothing was sent there.
    pub async fn post(&self, post: Post) -> Result<u16, String> {
        self.guard.check(&post.url)?;
        self.poster.post(post).await
    }
}
