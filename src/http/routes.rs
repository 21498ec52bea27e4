//! Routes: how a route is added, which it cannot be without saying who may call it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{OpenApi, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::auth::Gate;
use super::{console, idempotency};
use crate::app::App;
use crate::store::api_keys::Scope;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody. It shows nobody's data.
    Public,
    /// An API key with this scope.
    Key(Scope),
    /// Somebody who is signed in to the operator's console with a key of this scope.
    Console(Scope),
    /// The handler finds out by itself, in this way: Stripe's signature, a billing link.
    Checked(&'static str),
}

/// One route, for the test that walks them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// In capitals; `*` for a page that is not in the API's document.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: String,
    /// Who may call the route, and with which scope.
    pub access: Access,
}

/// The routes so far, the document that describes them, and who may call each.
pub(crate) struct Routes {
    gate: Arc<Gate>,
    router: OpenApiRouter<App>,
    list: Vec<RouteInfo>,
}

/// What is built from the routes.
pub(crate) struct Built {
    pub router: Router<App>,
    pub document: OpenApi,
    pub list: Vec<RouteInfo>,
}

impl Routes {
    /// No routes yet, and a document that says what the API as a whole is.
    pub(crate) fn new(app: &App, document: OpenApi) -> Routes {
        let router = OpenApiRouter::with_openapi(document);
        Routes { gate: Arc::new(Gate::new(app.clone())), router, list: Vec::new() }
    }

    /// Adds documented handlers of one path: `.add(Access::Key(Scope::BillingRead), routes!(customers::list))`.
    pub(crate) fn add(mut self, access: Access, routes: UtoipaMethodRouter<App>) -> Routes {
        let (schemas, mut paths, method_router) = routes;
        for (path, item) in &mut paths.paths {
            for (method, operation) in operations(item) {
                self.list.push(RouteInfo { method, path: path.clone(), access });
                describe(operation, access);
            }
        }
        let method_router = self.guarded(access, method_router);
        self.router = self.router.routes((schemas, paths, method_router));
        self
    }

    /// Adds a page for people, which is not part of the API's document.
    pub(crate) fn page(mut self, access: Access, path: &str, method_router: MethodRouter<App>) -> Routes {
        self.list.push(RouteInfo { method: "*", path: path.to_owned(), access });
        let method_router = self.guarded(access, method_router);
        self.router = self.router.route(path, method_router);
        self
    }

    fn guarded(&self, access: Access, method_router: MethodRouter<App>) -> MethodRouter<App> {
        match access {
            Access::Public | Access::Checked(_) => method_router,
            Access::Key(scope) => {
                let gate = Guard { gate: self.gate.clone(), scope };
                method_router.route_layer(from_fn_with_state(gate, guard))
            }
            Access::Console(scope) => {
                let gate = Guard { gate: self.gate.clone(), scope };
                method_router.route_layer(from_fn_with_state(gate, guard_console))
            }
        }
    }

    /// The router, its document and its list.
    pub(crate) fn build(self) -> Built {
        let (router, document) = self.router.split_for_parts();
        Built { router, document, list: self.list }
    }
}

#[derive(Clone)]
struct Guard {
    gate: Arc<Gate>,
    scope: Scope,
}

async fn guard(State(Guard { gate, scope }): State<Guard>, mut request: Request, next: Next) -> Response {
    match gate.admit(request.headers(), scope).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            idempotency::run(gate.app(), &caller, request, next).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn guard_console(State(Guard { gate, scope }): State<Guard>, request: Request, next: Next) -> Response {
    console::guard(gate.app(), scope, request, next).await
}

fn operations(item: &mut PathItem) -> Vec<(&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?))).collect()
}

/// Says in the document who may call, and that every error is a problem.
fn describe(operation: &mut Operation, access: Access) {
    operation.security = match access {
        Access::Key(scope) => Some(vec![SecurityRequirement::new("api_key", [scope.as_str()])]),
        Access::Public | Access::Console(_) | Access::Checked(_) => Some(Vec::new()),
    };
    let problem = ResponseBuilder::new().description("A problem, as RFC 9457 has it.").content(
        "application/problem+json",
        utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem")))),
    );
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem.build()));
}
