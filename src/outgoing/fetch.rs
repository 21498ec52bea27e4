//! Fetch: one guarded read of an address that the operator has named, up to so many bytes of its answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::Guard;
use crate::config::Secret;

/// The longest answer that is read.
pub const MOST_FETCHED: usize = 64 * 1024;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why nothing that can be used came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// No answer came, or not all of it: later there may be one.
    NoAnswer(String),
    /// The answer is larger than any that is meant.
    TooLarge,
    /// The address may not be reached, or the request cannot be made.
    Refused(String),
}

/// Reads over the network.
#[derive(Clone, Debug)]
pub struct Fetcher {
    guard: Guard,
    client: Arc<OnceLock<Result<reqwest::Client, String>>>,
}

impl Fetcher {
    /// Connects to nobody yet.
    pub fn new(guard: Guard) -> Fetcher {
        Fetcher { guard, client: Arc::default() }
    }

    /// Reads once, without following redirects.
    ///
    /// # Errors
    /// Why nothing that can be used came back; never with the address or the headers in it.
    pub async fn get(
        &self,
        url: &str,
        headers: &[(String, Secret)],
        timeout: Duration,
    ) -> Result<Fetched, FetchError> {
        self.guard.check(url).map_err(FetchError::Refused)?;
        let client = self.client.get_or_init(|| super::client::build(&self.guard));
        let client = client.as_ref().map_err(|why| FetchError::Refused(why.clone()))?;
        let request = client.get(url).headers(header_map(headers)?).timeout(timeout);
        let mut answer = request.send().await.map_err(no_answer)?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(no_answer)? {
            body.extend_from_slice(&part);
            if body.len() > MOST_FETCHED {
                return Err(FetchError::TooLarge);
            }
        }
        Ok(Fetched { status, body })
    }
}

fn no_answer(error: reqwest::Error) -> FetchError {
    FetchError::NoAnswer(super::client::told(error))
}

fn header_map(headers: &[(String, Secret)]) -> Result<HeaderMap, FetchError> {
    let wrong = |name: &str| FetchError::Refused(format!("the header {name} cannot be sent"));
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?;
        let mut text = HeaderValue::from_str(&value.0).map_err(|_| wrong(name))?;
        text.set_sensitive(true);
        map.insert(key, text);
    }
    Ok(map)
}
