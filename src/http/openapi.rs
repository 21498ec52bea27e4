//! OpenAPI: the API's document, generated from the handlers, and a page to read it on.

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};

use super::routes::{Access, Built, RouteInfo};
use super::{docs, html, problem};

/// Usage-based billing on Stripe: one open tab for every customer.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Opentab",
        description = "Usage-based billing on Stripe: customers, what they use, what it costs, and the one draft invoice that follows.\n\nTimes are RFC 3339, amounts whole minor units, quantities and unit amounts decimal strings. Every POST takes an `Idempotency-Key`: the same key and request get the same answer, for at least 24 hours. Errors are `application/problem+json` (RFC 9457)."
    ),
    components(schemas(problem::Body, problem::FieldError))
)]
struct Document;

/// The document without its paths, which the routes add.
pub(crate) fn document(public_url: &str) -> OpenApi {
    let mut document = Document::openapi();
    document.info.license = None;
    document.info.contact = None;
    document.servers = Some(vec![utoipa::openapi::Server::new(public_url)]);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, made with `opentab keys create`."))
        .build();
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert("api_key".to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    document
}

/// Adds the document itself, and the page to read it on. They are public, as every route's description is.
pub(crate) fn publish(mut built: Built) -> Built {
    let json = built.document.to_pretty_json().unwrap_or_default();
    let page = docs::content(&serde_json::from_str(&json).unwrap_or_default());
    let json_route = get(move || async move { ([(CONTENT_TYPE, "application/json")], json) });
    let page_route = get(move || async move { html::page("API", &page) });
    built.router = built.router.route("/openapi.json", json_route).route("/docs", page_route);
    for path in ["/openapi.json", "/docs"] {
        built.list.push(RouteInfo { method: "*", path: path.to_owned(), access: Access::Public });
    }
    built
}
