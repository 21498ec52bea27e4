//! What pages for people share: what a browser may do with them, cookies, and where a click may come from.

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tracing::error;

use super::kind;
use super::problem::Problem;
use crate::app::App;

/// A page's own style, script and address, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A page that a template has rendered.
pub(super) fn html(status: StatusCode, text: askama::Result<String>) -> Response {
    let Ok(text) = text.inspect_err(|error| error!("A page could not be rendered: {error}")) else {
        return Problem::new(&kind::INTERNAL_ERROR, "The page could not be shown.").into_response();
    };
    let mut response = (status, Body::from(text)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Without it browsers send `Origin: null` with the page's own forms, as if they came from elsewhere.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// A style or a script, whose address changes with what is in it.
pub(super) fn asset(media_type: &'static str, text: &'static str) -> Response {
    let kept = "public, max-age=31536000, immutable";
    ([(CONTENT_TYPE, media_type), (CACHE_CONTROL, kept)], text).into_response()
}

/// Whether browsers come through TLS, so that cookies can be kept to it.
pub(super) fn is_secure(app: &App) -> bool {
    app.config.public_url.starts_with("https://")
}

/// The value of a cookie, where the browser sent it.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Lets actions through that come from our own page. Browsers say where a request comes from; what says nothing is no
/// browser, and has no cookie that somebody else could use.
pub(super) fn same_site(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let ours = match (text(SEC_FETCH_SITE), text(ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = text(HOST).unwrap_or("");
            let here = [format!("http://{host}"), format!("https://{host}")];
            here.iter().any(|here| here == origin) || app.config.public_url == origin
        }
        (None, None) => true,
    };
    if ours {
        Ok(())
    } else {
        Err(Problem::new(&kind::CROSS_SITE_REQUEST, "This action was asked for by another site."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; xopentab_billing=2"));
        headers.append(COOKIE, HeaderValue::from_static("opentab_billing=three; b=4"));
        assert_eq!(cookie(&headers, "opentab_billing"), Some("three"));
    }
}
