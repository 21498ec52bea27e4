//! Routes: each one says who may call it, and holds to it: walked as a stranger, with too small a key, and with the right one.

use std::collections::BTreeSet;

use opentab::internals::commands::keys;
use opentab::internals::http::route_list;
use opentab::internals::http::routes::{Access, RouteInfo};
use opentab::internals::store::api_keys::Scope;

use crate::server::Server;

fn method(route: &RouteInfo) -> &'static str {
    match route.method {
        // A page is read, but for those that are a button.
        "*" if route.path.starts_with("/console/press/") => "POST",
        "*" if ["/sign-out", "/sign-in", "/press"].iter().any(|end| route.path.ends_with(end)) => "POST",
        "*" => "GET",
        method => method,
    }
}

fn path(route: &RouteInfo) -> String {
    let mut path = route.path.replace("{slug}", "not-found");
    while let Some((before, rest)) = path.split_once('{') {
        path = format!("{before}ot_x_1{}", rest.split_once('}').unwrap().1);
    }
    path
}

async fn key_with(server: &Server, scopes: BTreeSet<Scope>) -> String {
    let app = &server.app;
    let new = keys::create(&app.store, &app.ids, app.clock.now(), "walk", scopes, false, None).await;
    new.unwrap().secret
}

#[tokio::test]
async fn every_route_refuses_a_caller_without_a_key_unless_it_is_declared_public() {
    let server = Server::start().await;
    for route in route_list(&server.app) {
        let reply = server.anonymous(method(&route), &path(&route), "").await;
        match route.access {
            Access::Key(_) => assert_eq!((reply.status, &*reply.slug()), (401, "authentication-required")),
            Access::Public => assert_eq!(reply.status, 200, "{route:?}"),
            Access::Console(_) => {
                assert_eq!(reply.status, 401, "{route:?}");
                assert!(
                    reply.body.contains("API key") && reply.body.len() < 3_000,
                    "{route:?} tells something"
                );
            }
            // Signing out is the one thing that harms nobody: it shows and changes nothing.
            Access::Checked(_) if route.path == "/billing/sign-out" => assert_eq!(reply.status, 200),
            Access::Checked(_) => assert!(matches!(reply.status, 400 | 403), "{route:?}: {reply:?}"),
        }
    }
}

#[tokio::test]
async fn every_route_refuses_a_key_with_every_scope_but_its_own() {
    let server = Server::start().await;
    for route in route_list(&server.app) {
        let Access::Key(scope) = route.access else { continue };
        let others = Scope::ALL.into_iter().filter(|other| ![scope, Scope::Admin].contains(other));
        let others = key_with(&server, others.collect()).await;
        let reply = server.with_key(method(&route), &path(&route), &others).await;
        assert_eq!((reply.status, &*reply.slug()), (403, "insufficient-scope"), "{route:?}");
        assert!(reply.body.contains(&format!("`{scope}`")), "{route:?} does not name its scope: {reply:?}");
        let own = key_with(&server, [scope].into()).await;
        let reply = server.with_key(method(&route), &path(&route), &own).await;
        assert!(!matches!(reply.status, 401 | 403 | 405 | 500), "{route:?}: {reply:?}");
    }
}

#[tokio::test]
async fn the_document_knows_no_route_that_the_list_does_not() {
    let server = Server::start().await;
    let routes = route_list(&server.app);
    let document = server.anonymous("GET", "/openapi.json", "").await.json();
    let mut described = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|name| name.len() < 7) {
            let listed = |route: &RouteInfo| route.path == *path && route.method.eq_ignore_ascii_case(method);
            assert!(routes.iter().any(listed), "{method} {path}");
            described += 1;
        }
    }
    assert_eq!(described, routes.iter().filter(|route| route.method != "*").count());
}

#[tokio::test]
async fn what_a_path_does_not_support_is_refused_on_every_route() {
    let server = Server::start().await;
    let routes = route_list(&server.app);
    let knows = |path: &str, method: &str| routes.iter().any(|r| r.path == path && r.method == method);
    for route in &routes {
        let strange = ["DELETE", "PUT", "PATCH", "PROPFIND"].into_iter();
        for method in strange.filter(|method| !knows(&route.path, method)) {
            let reply = server.send(method, &path(route), "").await;
            assert_eq!((reply.status, &*reply.slug()), (405, "method-not-allowed"), "{method} {route:?}");
        }
    }
}
