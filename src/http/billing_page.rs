//! The billing page over HTTP: a link becomes a cookie, the cookie shows one customer's figures and nobody else's.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures::stream::{self, Stream};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::error;

use super::browser::{self, asset, cookie, html, same_site};
use super::extract::{FromQuery, Pairs, Path, Query};
use super::problem::Problem;
use super::serve::Stopping;
use crate::app::App;
use crate::pages;
use crate::store::customers::Customer;
use crate::workflows::WorkflowError;
use crate::workflows::billing_links::{self, LinkError, SESSION};
use crate::workflows::billing_view::billing_view;
use opentab_input::link_token::TokenError;

const COOKIE_NAME: &str = "opentab_billing";

/// How often an open page asks whether anything has changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Proxies close what is silent for longer.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Open pages at once, of everybody and of one customer. Beyond it a page is whole, but does not update itself.
const MOST_OPEN: usize = 512;
const MOST_OPEN_OF_ONE: usize = 16;

/// What a visitor gets in place of the page.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The link, or its session, is too old.
    Expired,
    /// No link, or not one of ours. One answer for every reason.
    Invalid,
    /// Not theirs, or not there: nobody is told which.
    NotFound,
    /// The figures cannot be read right now.
    Unavailable(StatusCode),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, title, text) = match self {
            Refused::Expired => (
                StatusCode::GONE,
                "This link has expired",
                "Billing links work for a limited time, to keep your figures private. Please ask for a new one.",
            ),
            Refused::Invalid => (
                StatusCode::FORBIDDEN,
                "This link does not work",
                "Please open your billing link exactly as it was sent to you, or ask for a new one.",
            ),
            Refused::NotFound => (
                StatusCode::NOT_FOUND,
                "There is nothing here",
                "This page does not exist, or it is not part of your billing.",
            ),
            Refused::Unavailable(status) => (
                status,
                "Your figures cannot be shown right now",
                "Nothing is lost. Please come back in a few minutes.",
            ),
        };
        html(status, pages::billing::notice(title, text))
    }
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Refused {
        match error {
            LinkError::Token(TokenError::Expired) => Refused::Expired,
            LinkError::Token(TokenError::Invalid) => Refused::Invalid,
            LinkError::Storage(error) => error.into(),
        }
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Refused {
        error!(%error, "The billing page could not be read: {error}");
        Refused::Unavailable(StatusCode::SERVICE_UNAVAILABLE)
    }
}

impl From<WorkflowError> for Refused {
    fn from(error: WorkflowError) -> Refused {
        match error {
            WorkflowError::Storage(error) => error.into(),
            error => {
                error!("The billing page could not be shown: {error}");
                Refused::Unavailable(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

/// Opens a link: its session goes into a cookie, and the token out of the address bar.
pub(crate) async fn open(
    State(app): State<App>,
    token: Result<Path<String>, Problem>,
) -> Result<Response, Refused> {
    let Ok(Path(token)) = token else { return Err(Refused::Invalid) };
    let session = billing_links::open(&app, &token).await?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/billing"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set_cookie(&app, headers, &session, SESSION.as_secs());
    Ok(response)
}

/// The page of the customer whose session the cookie holds.
pub(crate) async fn page(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refused> {
    let (customer, _) = visitor(&app, &headers).await?;
    // Before the figures: what arrives in between is looked at again.
    let version = version(&app, &customer).await?.ok_or(Refused::Invalid)?;
    let view = billing_view(&app, &customer).await?;
    Ok(html(StatusCode::OK, pages::billing::page(&view, &version)))
}

/// One of the customer's own past invoices.
pub(crate) async fn invoice(
    State(app): State<App>,
    id: Result<Path<String>, Problem>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (customer, _) = visitor(&app, &headers).await?;
    let Ok(Path(id)) = id else { return Err(Refused::NotFound) };
    let view = billing_view(&app, &customer).await?;
    let invoice = view.past.iter().find(|invoice| invoice.id == id).ok_or(Refused::NotFound)?;
    Ok(html(StatusCode::OK, pages::billing::invoice(&view, invoice)))
}

/// Ends the session in this browser.
pub(crate) async fn sign_out(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    same_site(&app, &headers)?;
    let text = "To see your billing again, open the link that was sent to you.";
    let mut response = html(StatusCode::OK, pages::billing::notice("You are signed out", text));
    set_cookie(&app, response.headers_mut(), "", 0);
    Ok(response)
}

/// The page's style.
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", pages::BILLING_CSS)
}

/// The page's script.
pub(crate) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", pages::BILLING_JS)
}

fn set_cookie(app: &App, headers: &mut HeaderMap, value: &str, seconds: u64) {
    let secure = if browser::is_secure(app) { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE_NAME}={value}; Path=/billing; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}

/// Whose session the cookie holds, and until when. The customer comes from nowhere else.
async fn visitor(app: &App, headers: &HeaderMap) -> Result<(Customer, DateTime<Utc>), Refused> {
    let token = cookie(headers, COOKIE_NAME).ok_or(Refused::Invalid)?;
    let session = billing_links::session(app, token).await?;
    let customer = app.store.customer(&session.customer_id).await?.ok_or(Refused::Invalid)?;
    Ok((customer, session.expires_at))
}

/// What a page has seen. A new day also changes it: the bars move on, and cycles end at midnight.
async fn version(app: &App, customer: &Customer) -> sqlx::Result<Option<String>> {
    let today = customer.cycle_rule().day_of(app.clock.now());
    let version = app.store.billing_version(&customer.id).await?;
    Ok(version.map(|version| {
        let (cycles, invoices) = (version.cycles, version.invoices);
        format!("{cycles}.{invoices}.{}.{}.{today}", version.invoices_changed_at, version.customer_changed_at)
    }))
}

/// What the page has seen when it connects.
#[derive(Debug)]
pub(crate) struct Since(String);

impl FromQuery for Since {
    fn from_query(pairs: &mut Pairs) -> Result<Since, Problem> {
        Ok(Since(pairs.one("since")?.unwrap_or_default()))
    }
}

/// Sends the page's live part whenever it has changed, until the session, the server or the visitor ends it.
pub(crate) async fn events(
    State(app): State<App>,
    Extension(watchers): Extension<Watchers>,
    stopping: Option<Extension<Stopping>>,
    Query(Since(since)): Query<Since>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let (customer, expires_at) = visitor(&app, &headers).await?;
    let Some(place) = watchers.enter(&customer.id) else {
        // 204 tells the browser not to come again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    // After a dropped connection the browser says itself what it has seen last.
    let again = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let mut clock = interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        app,
        customer_id: customer.id,
        expires_at,
        seen: again.unwrap_or(since),
        clock,
        stopping: stopping.map(|Extension(stopping)| stopping).unwrap_or_default(),
        ended: false,
        _place: place,
    };
    Ok(Sse::new(watch.stream()).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

/// One open page.
struct Watch {
    app: App,
    customer_id: String,
    expires_at: DateTime<Utc>,
    seen: String,
    clock: Interval,
    stopping: Stopping,
    ended: bool,
    _place: Place,
}

impl Watch {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut watch| watch.next().await.map(|event| (Ok(event), watch)))
    }

    async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            tokio::select! {
                () = self.stopping.0.cancelled() => return None,
                _ = self.clock.tick() => {}
            }
            if self.app.clock.now() >= self.expires_at {
                self.ended = true;
                return Some(Event::default().event("ended").data("The session is over."));
            }
            match self.look().await {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                // Logged where it became a refusal; the next look may succeed.
                Err(_) => {}
            }
        }
        None
    }

    async fn look(&mut self) -> Result<Option<Event>, Refused> {
        let customer = self.app.store.customer(&self.customer_id).await?.ok_or(Refused::Invalid)?;
        let now = version(&self.app, &customer).await?.ok_or(Refused::Invalid)?;
        if now == self.seen {
            return Ok(None);
        }
        let view = billing_view(&self.app, &customer).await?;
        let Ok(html) = pages::billing::live(&view) else { return Ok(None) };
        self.seen = now;
        // An event's lines end with line feeds; a carriage return would break it.
        let html = html.replace('\r', "");
        Ok(Some(Event::default().event("billing").id(&self.seen).data(html)))
    }
}

/// How many pages are open, by customer. One per server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers(Arc<Mutex<HashMap<String, usize>>>);

/// An open page's place among them, given back when it is dropped.
struct Place {
    watchers: Watchers,
    customer_id: String,
}

impl Watchers {
    fn enter(&self, customer_id: &str) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= MOST_OPEN {
            return None;
        }
        let own = open.entry(customer_id.to_owned()).or_default();
        if *own >= MOST_OPEN_OF_ONE {
            return None;
        }
        *own += 1;
        Some(Place { watchers: self.clone(), customer_id: customer_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.customer_id) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.customer_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_customer_cannot_take_every_place_and_places_come_back() {
        let watchers = Watchers::default();
        let places: Vec<Place> = (0..MOST_OPEN_OF_ONE).filter_map(|_| watchers.enter("ada")).collect();
        assert_eq!(places.len(), MOST_OPEN_OF_ONE);
        assert!(watchers.enter("ada").is_none() && watchers.enter("bob").is_some());
        drop(places);
        assert!(watchers.enter("ada").is_some() && watchers.0.lock().unwrap().is_empty());
    }
}
