//! Signing in and out of the console: an API key in a form, and a cookie for it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::{HOME, ask_to_sign_in, cookie_name, go_to, inside, set_cookie};
use crate::app::App;
use crate::http::auth::{KEY_PREFIX, key_hash};
use crate::http::browser::{cookie, same_site};
use crate::http::extract::{Form, FromQuery, Pairs};
use crate::http::problem::Problem;
use crate::workflows::console::session::{self, SignIn};

/// Failed tries at once, over all who try; another is allowed after each pause.
const FAILURES: i64 = 10;
const PAUSE_MS: i64 = 6_000;

/// How many failed tries there were of late. One per server.
#[derive(Clone, Debug, Default)]
pub(crate) struct SignIns(Arc<Mutex<i64>>);

impl SignIns {
    /// How long nobody may try, in milliseconds.
    fn shut_for(&self, now: i64) -> Option<i64> {
        let full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = *full_at - (FAILURES - 1) * PAUSE_MS - now;
        (wait > 0).then_some(wait)
    }

    fn failed(&self, now: i64) {
        let mut full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = (*full_at).max(now) + PAUSE_MS;
    }
}

/// A key, and where to go with it.
#[derive(Debug)]
pub(crate) struct KeyForm {
    key: String,
    to: String,
}

impl FromQuery for KeyForm {
    fn from_query(pairs: &mut Pairs) -> Result<KeyForm, Problem> {
        let key = pairs.one("key")?.unwrap_or_default().trim().to_owned();
        Ok(KeyForm { key, to: pairs.one("to")?.unwrap_or_default() })
    }
}

/// Signs in with an API key.
pub(crate) async fn sign_in(
    State(app): State<App>,
    Extension(sign_ins): Extension<SignIns>,
    headers: HeaderMap,
    form: Result<Form<KeyForm>, Problem>,
) -> Result<Response, Problem> {
    same_site(&app, &headers)?;
    let form = form.map_or(KeyForm { key: String::new(), to: HOME.to_owned() }, |Form(form)| form);
    if let Some(wait) = sign_ins.shut_for(app.clock.now_ms()) {
        return Ok(too_often(wait, &form.to));
    }
    let outcome = if form.key.starts_with(KEY_PREFIX) {
        session::sign_in(&app, &hex::encode(key_hash(&form.key))).await?
    } else {
        SignIn::Invalid
    };
    let wrong = match outcome {
        SignIn::In { token, seconds } => {
            let mut response = go_to(inside(&form.to));
            set_cookie(&app, response.headers_mut(), &token, seconds);
            return Ok(response);
        }
        SignIn::Invalid => "This key is not valid here.",
        SignIn::SmallScope => "This key may not read billing: it needs the scope billing:read.",
    };
    sign_ins.failed(app.clock.now_ms());
    Ok(ask_to_sign_in(StatusCode::FORBIDDEN, Some(wrong), &form.to))
}

fn too_often(wait_ms: i64, to: &str) -> Response {
    let wrong = "Too many keys were wrong. Wait a little, then try again.";
    let mut response = ask_to_sign_in(StatusCode::TOO_MANY_REQUESTS, Some(wrong), to);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait_ms / 1_000 + 1));
    response
}

/// Ends the session, also for whoever has copied the cookie.
pub(crate) async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(token) = cookie(&headers, cookie_name(&app)) {
        session::sign_out(&app, token).await?;
    }
    let mut response = go_to(HOME);
    set_cookie(&app, response.headers_mut(), "", 0);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_shut_the_door_and_time_opens_it_again() {
        let sign_ins = SignIns::default();
        let now = 1_000_000;
        for _ in 0..FAILURES {
            assert_eq!(sign_ins.shut_for(now), None);
            sign_ins.failed(now);
        }
        assert_eq!(sign_ins.shut_for(now), Some(PAUSE_MS));
        assert_eq!(sign_ins.shut_for(now + PAUSE_MS), None);
        sign_ins.failed(now + PAUSE_MS);
        assert_eq!(sign_ins.shut_for(now + PAUSE_MS), Some(PAUSE_MS));
    }
}
