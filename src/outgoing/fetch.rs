//! Fetch: one guarded read of an address that the operator has named, up to so many bytes of its answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};

use super::Guard;
use crate::config::Secret;

/// The longest answer that is read.
const MOST_FETCHED: usize = 64 * 1024;
/// A file may lie so many steps away from where it is asked for.
const MOST_STEPS: usize = 3;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why nothing that can be used came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// No answer came, or not all of it: later there may be one.
    NoAnswer(String),
    /// The answer is larger than any that is meant.
    TooLarge,
    /// The address may not be reached, or the request cannot be made.
    Refused(String),
}

/// Reads over the network.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    guard: Guard,
    client: Arc<OnceLock<Result<reqwest::Client, String>>>,
}

impl Fetcher {
    /// Connects to nobody yet.
    pub(crate) fn new(guard: Guard) -> Fetcher {
        Fetcher { guard, client: Arc::default() }
    }

    /// Reads once, without following redirects.
    ///
    /// # Errors
    /// Why nothing that can be used came back; never with the address or the headers in it.
    pub(crate) async fn get(
        &self,
        url: &str,
        headers: &[(String, Secret)],
        timeout: Duration,
    ) -> Result<Fetched, FetchError> {
        let answer = self.ask(url, headers, timeout).await?;
        let status = answer.status().as_u16();
        Ok(Fetched { status, body: read(answer, MOST_FETCHED).await? })
    }

    /// Reads a file of at most so many bytes; where that leads elsewhere, the guard looks at each step.
    ///
    /// # Errors
    /// Why there is none; never with the address in it.
    pub(crate) async fn get_file(
        &self,
        url: &str,
        timeout: Duration,
        most: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_STEPS {
            let answer = self.ask(&url, &[], timeout).await?;
            let there = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match (answer.status().as_u16(), there.and_then(|there| answer.url().join(there).ok())) {
                (200, _) => return read(answer, most).await,
                (301 | 302 | 303 | 307 | 308, Some(there)) => url = there.into(),
                (status, _) => return Err(FetchError::NoAnswer(format!("the answer is {status}"))),
            }
        }
        Err(FetchError::NoAnswer("it leads from one place to the next".to_owned()))
    }

    async fn ask(
        &self,
        url: &str,
        headers: &[(String, Secret)],
        timeout: Duration,
    ) -> Result<reqwest::Response, FetchError> {
        self.guard.check(url).map_err(FetchError::Refused)?;
        let client = self.client.get_or_init(|| super::client::build(&self.guard));
        let client = client.as_ref().map_err(|why| FetchError::Refused(why.clone()))?;
        let request = client.get(url).headers(header_map(headers)?).timeout(timeout);
        request.send().await.map_err(no_answer)
    }
}

async fn read(mut answer: reqwest::Response, most: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(no_answer)? {
        body.extend_from_slice(&part);
        if body.len() > most {
            return Err(FetchError::TooLarge);
        }
    }
    Ok(body)
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
