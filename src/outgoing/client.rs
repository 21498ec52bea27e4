//! The client: one guarded request, with little patience and little interest in the answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Guard, Post, PostFuture, Poster};

const PATIENCE: Duration = Duration::from_secs(10);
/// So much of an answer is read, so that the connection can be used again; more is not waited for.
const MOST_READ: usize = 16 * 1024;

/// Requests over the network.
#[derive(Debug)]
pub(crate) struct Client {
    guard: Guard,
    /// Made at the first request: most processes never send one.
    client: OnceLock<Result<reqwest::Client, String>>,
}

impl Client {
    /// Connects to nobody yet.
    pub(crate) fn new(guard: Guard) -> Client {
        Client { guard, client: OnceLock::new() }
    }

    async fn send(&self, post: Post) -> Result<u16, String> {
        let client = self.client.get_or_init(|| build(&self.guard)).as_ref().map_err(Clone::clone)?;
        let mut request = client.post(post.url).body(post.body);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        let mut answer = request.send().await.map_err(told)?;
        let status = answer.status().as_u16();
        let mut read = 0;
        while let Ok(Some(part)) = answer.chunk().await {
            read += part.len();
            if read > MOST_READ {
                break;
            }
        }
        Ok(status)
    }
}

/// For requests to places that users have named.
pub(super) fn build(guard: &Guard) -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("opentab/", env!("CARGO_PKG_VERSION")))
        .timeout(PATIENCE)
        .dns_resolver(Arc::new(guard.clone()))
        // A redirect could lead where the guard does not look.
        .redirect(reqwest::redirect::Policy::none())
        // A proxy would look names up by itself.
        .no_proxy();
    client.build().map_err(|error| format!("cannot make an HTTPS client: {error}"))
}

/// What went wrong, without the URL: a token of the user's may stand in it.
pub(super) fn told(error: reqwest::Error) -> String {
    let what = match &error {
        e if e.is_timeout() => "no answer in time",
        e if e.is_connect() => "it cannot be reached",
        _ => "the connection broke",
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{what}: {cause}")
}

impl Poster for Client {
    fn post(&self, post: Post) -> PostFuture<'_> {
        Box::pin(self.send(post))
    }
}
