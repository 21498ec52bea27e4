//! HTTP, thin: parse, authorise, call one workflow or query, render.
//!
//! To add a route: write a handler with `#[utoipa::path]` in a file of its own, and name it in [`routes`] together with
//! who may call it. Bodies, queries and paths come through [`extract`], errors are a [`problem::Problem`]:
//! ```ignore
//! #[utoipa::path(post, path = "/v1/usage", request_body = Batch, responses((status = 200, body = Outcomes)))]
//! pub async fn send(State(app): State<App>, by: By, Json(batch): Json<Batch>) -> Result<axum::Json<Outcomes>, Problem> {
//! ```
//! and in [`routes`]: `.add(Access::Key(Scope::UsageWrite), routes!(usage::send))`.

pub(crate) mod amounts;
pub(crate) mod auth;
pub(crate) mod billing;
pub(crate) mod billing_page;
mod browser;
pub(crate) mod charges;
pub(crate) mod check;
pub(crate) mod console;
pub(crate) mod customers;
mod docs;
mod edge;
pub(crate) mod emails;
pub(crate) mod expand;
pub(crate) mod extract;
mod health;
pub(crate) mod html;
pub(crate) mod idempotency;
pub(crate) mod imports;
pub(crate) mod incidents;
pub(crate) mod invoices;
pub(crate) mod kind;
pub(crate) mod list;
pub(crate) mod meters;
pub(crate) mod openapi;
pub(crate) mod prices;
pub(crate) mod problem;
pub(crate) mod reports;
pub(crate) mod routes;
pub(crate) mod serve;
pub(crate) mod services;
mod sync;
pub(crate) mod usage;
pub(crate) mod webhook_deliveries;
pub(crate) mod webhook_endpoints;
pub(crate) mod webhooks;

use axum::extract::DefaultBodyLimit;
use axum::http::Extensions;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Extension, Router};
use utoipa_axum::routes as handlers;

use crate::app::App;
use crate::pages::imports::UPLOAD;
use crate::store::api_keys::Scope;
use crate::workflows::console::session;
use extract::Limits;
use routes::{Access, Built, RouteInfo, Routes};

const READ: Access = Access::Key(Scope::BillingRead);
const WRITE: Access = Access::Key(Scope::BillingWrite);
const LOOK: Access = Access::Console(session::LOOK);
const PRESS: Access = Access::Console(console::PRESS);

/// Every route, and who may call it. This is the only place where routes are added.
fn routes(routes: Routes) -> Routes {
    routes
        .add(WRITE, handlers!(customers::create))
        .add(READ, handlers!(customers::list))
        .add(WRITE, handlers!(imports::create))
        .add(READ, handlers!(imports::list))
        .add(READ, handlers!(imports::retrieve))
        .add(READ, handlers!(customers::retrieve))
        .add(WRITE, handlers!(customers::update))
        .add(Access::Key(Scope::Sync), handlers!(sync::start))
        .add(Access::Checked("Stripe's signature"), handlers!(webhooks::stripe))
        .add(WRITE, handlers!(meters::create))
        .add(READ, handlers!(meters::list))
        .add(READ, handlers!(meters::retrieve))
        .add(WRITE, handlers!(meters::update))
        .add(WRITE, handlers!(prices::create))
        .add(READ, handlers!(prices::list))
        .add(READ, handlers!(prices::retrieve))
        .add(WRITE, handlers!(prices::archive))
        .add(WRITE, handlers!(services::create))
        .add(READ, handlers!(services::list))
        .add(READ, handlers!(services::retrieve))
        .add(WRITE, handlers!(services::update))
        .add(READ, handlers!(amounts::list))
        .add(WRITE, handlers!(amounts::retry))
        .add(WRITE, handlers!(amounts::accept))
        .add(READ, handlers!(reports::invoices))
        .add(READ, handlers!(incidents::list))
        .add(WRITE, handlers!(incidents::resolve))
        .add(READ, handlers!(emails::list))
        .add(WRITE, handlers!(emails::resend_all))
        .add(WRITE, handlers!(emails::resend))
        .add(Access::Key(Scope::EmailBounces), handlers!(emails::bounce))
        .add(WRITE, handlers!(webhook_endpoints::create))
        .add(READ, handlers!(webhook_endpoints::list))
        .add(READ, handlers!(webhook_endpoints::retrieve))
        .add(WRITE, handlers!(webhook_endpoints::update))
        .add(WRITE, handlers!(webhook_endpoints::delete))
        .add(WRITE, handlers!(webhook_endpoints::roll_secret))
        .add(WRITE, handlers!(webhook_endpoints::test))
        .add(READ, handlers!(webhook_deliveries::list))
        .add(WRITE, handlers!(webhook_deliveries::replay))
        .add(Access::Key(Scope::UsageWrite), handlers!(usage::send))
        .add(READ, handlers!(billing::retrieve))
        .add(WRITE, handlers!(billing::create_link))
        .add(READ, handlers!(invoices::list))
        .add(READ, handlers!(invoices::retrieve))
        .add(READ, handlers!(charges::list))
        .add(WRITE, handlers!(charges::run))
        .add(READ, handlers!(charges::retrieve))
        .add(WRITE, handlers!(charges::pay))
        .add(WRITE, handlers!(charges::retry))
        .add(WRITE, handlers!(charges::void))
        .add(WRITE, handlers!(charges::mark_uncollectible))
        .add(WRITE, handlers!(charges::rebill))
        .page(Access::Checked("a billing link"), "/billing/{token}", get(billing_page::open))
        .page(Access::Checked("a billing link's session"), "/billing", get(billing_page::page))
        .page(
            Access::Checked("a billing link's session"),
            "/billing/invoices/{id}",
            get(billing_page::invoice),
        )
        .page(
            Access::Checked("a billing link's session"),
            "/billing/events",
            get(billing_page::events).layer(Extension(billing_page::Watchers::default())),
        )
        .page(
            Access::Checked("the request comes from the page"),
            "/billing/sign-out",
            post(billing_page::sign_out),
        )
        .page(Access::Public, "/billing/assets/billing.css", get(billing_page::style))
        .page(Access::Public, "/billing/assets/billing.js", get(billing_page::script))
        .page(LOOK, "/console", get(console::needs))
        .page(LOOK, "/console/invoices", get(console::invoices))
        .page(LOOK, "/console/invoices/{id}", get(console::invoice))
        .page(LOOK, "/console/customers", get(console::customers))
        .page(LOOK, "/console/customers/{id}", get(console::customer))
        .page(LOOK, "/console/report", get(console::report))
        .page(LOOK, "/console/report.csv", get(console::report_csv))
        .page(LOOK, "/console/report.json", get(console::report_json))
        .page(LOOK, "/console/amounts", get(console::amounts))
        .page(LOOK, "/console/emails", get(console::emails))
        .page(LOOK, "/console/import", get(console::imports))
        .page(LOOK, "/console/import/{id}", get(console::import))
        .page(PRESS, UPLOAD, post(console::upload).layer(DefaultBodyLimit::disable()))
        .page(PRESS, "/console/press/import/{id}", post(console::apply))
        .page(PRESS, "/console/press/customer/{id}/active", post(console::customer_active))
        .page(PRESS, "/console/press/amounts", post(console::press_amounts))
        .page(PRESS, "/console/press/amount", post(console::press_amount))
        .page(PRESS, "/console/press/emails", post(console::press_emails))
        .page(PRESS, "/console/press", post(console::press))
        .page(LOOK, "/console/sign-out", post(console::sign_out))
        .page(
            Access::Checked("an API key in a form"),
            "/console/sign-in",
            post(console::sign_in).layer(Extension(console::SignIns::default())),
        )
        .page(Access::Public, "/console/assets/console.css", get(console::style))
        .add(Access::Public, handlers!(health::alive))
        .add(Access::Public, handlers!(health::ready))
        .add(Access::Public, handlers!(health::metrics))
        .page(Access::Public, "/problems", get(problem::index))
        .page(Access::Public, "/problems/{slug}", get(problem::page))
}

/// The whole server as a service.
pub fn router(app: App) -> Router {
    router_with(app, Limits::default())
}

/// The whole server, with limits that a test has shortened.
pub fn router_with(app: App, limits: Limits) -> Router {
    let edge = edge::Edge::new(app.clone(), limits);
    build(&app)
        .router
        .fallback(edge::not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(from_fn_with_state(edge, edge::pass))
        .with_state(app)
}

/// Every route with who may call it, for the test that walks them all.
pub fn route_list(app: &App) -> Vec<RouteInfo> {
    build(app).list
}

fn build(app: &App) -> Built {
    openapi::publish(routes(Routes::new(app, openapi::document(&app.config.public_url))).build())
}

/// The id that the edge gave to a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub String);

/// The request's id, for logs and problems.
pub(crate) fn request_id(extensions: &Extensions) -> String {
    extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}
