//! The operator's console over HTTP: who is let in, and what every page of it shares.
//!
//! To add a page: a template that extends `console/layout.html` and a struct with a `shell` for it in
//! [`crate::pages::console`], a handler here that answers `page(…)`, its route with `Access::Console(…)`, and, where
//! it has a tab, a line in [`crate::pages::console::TABS`]. A form posts to a route of its own, and nothing posted from
//! another site reaches its handler.

mod amounts;
mod customers;
mod emails;
mod imports;
mod invoices;
mod needs;
mod report;
mod sign_in;

use axum::extract::Request;
use axum::http::header::{HeaderValue, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

pub(crate) use amounts::{amounts, press_amount, press_amounts};
pub(crate) use customers::{customer, customer_active, customers};
pub(crate) use emails::{emails, press_emails};
pub(crate) use imports::{apply, import, imports, upload};
pub(crate) use invoices::{invoice, invoices};
pub(crate) use needs::{needs, press};
pub(crate) use report::{report, report_csv, report_json};
pub(crate) use sign_in::{SignIns, sign_in, sign_out};

use super::auth::Caller;
use super::browser::{self, asset, cookie, html, same_site};
use super::extract::{FromQuery, Pairs};
use super::problem::Problem;
use crate::app::App;
use crate::pages;
use crate::pages::console::{SaidPage, Shell, SignInPage, rendered};
use crate::store::api_keys::{ApiKey, Scope};
use crate::workflows::console::press::PressError;
use crate::workflows::console::session;
use crate::workflows::remedy::Action;

/// What it takes to press a button.
pub(super) const PRESS: Scope = Scope::BillingWrite;
/// Where the console begins.
const HOME: &str = "/console";

/// Lets in who is signed in with a key of this scope; everybody else gets the form, and nothing is read for them. What
/// goes wrong behind it is shown as a page.
pub(super) async fn guard(app: &App, scope: Scope, mut request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD)
        && let Err(problem) = same_site(app, request.headers())
    {
        return problem.into_response();
    }
    let key = match signed_in(app, request.headers()).await {
        Ok(Some(key)) => key,
        Ok(None) => {
            let to = request.uri().path_and_query().map_or(HOME, |to| to.as_str());
            return ask_to_sign_in(StatusCode::UNAUTHORIZED, None, to);
        }
        Err(error) => return Problem::from(error).into_response(),
    };
    let shell = shell(app, &key, "", None);
    if !key.may(scope) {
        let text =
            format!("This needs a key with the scope `{scope}`. Sign out, and in again with such a key.");
        let title = "Your key may not do this".to_owned();
        return html(StatusCode::FORBIDDEN, rendered(&SaidPage { shell, title, text }));
    }
    request.extensions_mut().insert(Caller(key.into()));
    as_page(shell, next.run(request).await)
}

async fn signed_in(app: &App, headers: &HeaderMap) -> sqlx::Result<Option<ApiKey>> {
    match cookie(headers, cookie_name(app)) {
        Some(token) => session::signed_in(app, token).await,
        None => Ok(None),
    }
}

/// A problem is for programs; whoever looks at a page gets it as one.
fn as_page(shell: Shell, mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Box<Problem>>() else { return response };
    let title = problem.kind.title.to_owned();
    let text = format!("{} {}", problem.detail, problem.kind.help);
    html(response.status(), rendered(&SaidPage { shell, title, text }))
}

/// With the prefix that keeps other hosts of the domain from setting it, where there is TLS.
fn cookie_name(app: &App) -> &'static str {
    if browser::is_secure(app) { "__Host-opentab_console" } else { "opentab_console" }
}

fn set_cookie(app: &App, headers: &mut HeaderMap, value: &str, seconds: u64) {
    let secure = if browser::is_secure(app) { "; Secure" } else { "" };
    let name = cookie_name(app);
    // The prefix asks for the path of everything.
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}

/// What stands around a page. `tab` is its path in [`pages::console::TABS`]; empty for none.
pub(super) fn shell(app: &App, key: &ApiKey, tab: &'static str, did: Option<Action>) -> Shell {
    Shell {
        tab,
        who: key.name.clone(),
        live: app.config.livemode(),
        may_press: key.may(PRESS),
        said: did.map(|did| did.done().to_owned()),
    }
}

/// What was pressed on the way to this page, from its query: `did`.
pub(super) fn did(pairs: &mut Pairs) -> Result<Option<Action>, Problem> {
    Ok(pairs.one("did")?.and_then(|name| name.parse().ok()))
}

/// The form, with what was wrong at the last try; `to` is where it leads.
fn ask_to_sign_in(status: StatusCode, wrong: Option<&str>, to: &str) -> Response {
    html(status, rendered(&SignInPage { wrong, to: inside(to) }))
}

/// A path of the console; its first page for anything else.
fn inside(path: &str) -> &str {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"'));
    let ours = path == HOME || path.starts_with("/console/") || path.starts_with("/console?");
    if plain && ours && !path.starts_with("/console/press") { path } else { HOME }
}

/// Goes on to a page of the console.
fn go_to(path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

/// What a press of a button answers where it did nothing.
impl From<PressError> for Problem {
    fn from(error: PressError) -> Problem {
        match error {
            PressError::Gone => Problem::not_found("What this button was for is not there any more."),
            PressError::NotNow(why) => {
                Problem::new(&super::kind::INVALID_STATE, format!("Nothing was done: {why}."))
            }
            PressError::Workflow(error) => error.into(),
        }
    }
}

/// What an address asks for that means nothing here is as good as nothing.
fn if_known(text: String, known: bool) -> String {
    if known { text } else { String::new() }
}

/// The console's style.
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", pages::CONSOLE_CSS)
}

/// A page that says only what was pressed on the way to it.
#[derive(Debug, Default)]
pub(crate) struct Did(pub Option<Action>);

impl FromQuery for Did {
    fn from_query(pairs: &mut Pairs) -> Result<Did, Problem> {
        Ok(Did(did(pairs)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_out_of_the_console() {
        for path in ["/console", "/console/invoices?status=failed", "/console?after=ot_inc_1"] {
            assert_eq!(inside(path), path);
        }
        for path in
            ["", "//evil.example", "https://evil.example", "/billing", "/consolation", "/console/\r\nx"]
        {
            assert_eq!(inside(path), HOME, "{path:?}");
        }
    }
}
