//! The API's resources, as a user's program sees them.

use chrono::TimeDelta;
use opentab::internals::http::route_list;
use opentab::internals::http::routes::Access;
use opentab::internals::store::NewIncident;
use serde_json::{Value, json};

use crate::server::{Server, noon, on_both};

async fn a_customer_is_created_retrieved_updated_and_listed(server: Server) {
    let body =
        json!({ "name": "Ada", "currency": "usd", "external_id": "tenant-1", "time_zone": "Europe/Berlin" });
    let created = server.post("/v1/customers", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let customer = created.json();
    let id = customer["id"].as_str().unwrap();
    assert!(id.starts_with("ot_cus_"));
    assert_eq!(customer["created_at"], "2026-11-21T12:00:00Z");
    assert_eq!(server.get(&format!("/v1/customers/{id}")).await.json(), customer);

    assert_eq!(server.get("/v1/customers/tenant-1").await.json(), customer);

    let path = "/v1/customers/tenant-1";
    let changed = server.post(path, json!({ "name": "Ada L.", "email": "a@b.example" })).await;
    assert_eq!(changed.json()["name"], "Ada L.");
    let listed = server.get("/v1/customers?external_id=tenant-1").await.json();
    assert_eq!((&listed["object"], &listed["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(listed["data"][0]["email"], "a@b.example");
    assert_eq!(server.get("/v1/customers?external_id=tenant-2").await.json()["data"], json!([]));
}

async fn created(server: &Server, path: &str, body: Value) -> Value {
    let reply = server.post(path, body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()
}

async fn what_invoices_and_usage_stand_on_never_changes(server: Server) {
    let customer = created(&server, "/v1/customers", json!({ "name": "Ada", "currency": "usd" })).await;
    let path = format!("/v1/customers/{}", customer["id"].as_str().unwrap());
    for change in [json!({ "currency": "eur" }), json!({ "time_zone": "UTC" }), json!({ "anchor_day": 2 })] {
        let reply = server.post(&path, change).await;
        assert_eq!((reply.status, &reply.json()["errors"][0]["code"]), (422, &json!("immutable")));
    }
    assert_eq!(server.post(&path, json!({ "stripe_customer_id": "cus_1" })).await.status, 200);
    assert_eq!(server.post(&path, json!({ "stripe_customer_id": "cus_1" })).await.status, 200);
    assert_eq!(server.post(&path, json!({ "stripe_customer_id": "cus_2" })).await.status, 422);
    assert_eq!(server.get(&path).await.json()["stripe_customer_id"], "cus_1");
}

async fn a_unique_value_belongs_to_one_object(server: Server) {
    let ada = json!({ "name": "Ada", "currency": "usd", "external_id": "t1" });
    created(&server, "/v1/customers", ada.clone()).await;
    let reply = server.post("/v1/customers", ada).await;
    assert_eq!((reply.status, reply.slug().as_str()), (409, "already-exists"));
    assert_eq!(reply.json()["errors"][0]["pointer"], "/external_id");
    let bob = created(&server, "/v1/customers", json!({ "name": "Bob", "currency": "usd" })).await;
    let path = format!("/v1/customers/{}", bob["id"].as_str().unwrap());
    assert_eq!(server.post(&path, json!({ "external_id": "t1" })).await.status, 409);
}

async fn metadata_is_merged_and_an_empty_value_removes_its_key(server: Server) {
    let body = json!({ "name": "Ada", "currency": "usd", "email": "a@b.example", "metadata": { "a": "1", "b": "2" } });
    let id = created(&server, "/v1/customers", body).await["id"].as_str().unwrap().to_owned();
    let change = json!({ "metadata": { "a": "", "c": "3" }, "email": null });
    let customer = server.post(&format!("/v1/customers/{id}"), change).await.json();
    assert_eq!((&customer["metadata"], &customer["email"]), (&json!({ "b": "2", "c": "3" }), &Value::Null));
}

async fn pages_tile_a_list_in_both_directions(server: Server) {
    for n in 0..5 {
        server.app.clock.move_to(noon() + TimeDelta::seconds(n));
        created(&server, "/v1/customers", json!({ "name": format!("c{n}"), "currency": "usd" })).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().unwrap();
        data.iter().map(|customer| customer["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.get("/v1/customers?limit=2").await.json();
    assert_eq!((names(&first), &first["has_more"]), (vec!["c4".into(), "c3".into()], &json!(true)));
    let last =
        |page: &Value| page["data"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let second = server.get(&format!("/v1/customers?limit=2&starting_after={}", last(&first))).await.json();
    assert_eq!(names(&second), ["c2", "c1"]);
    let third = server.get(&format!("/v1/customers?limit=2&starting_after={}", last(&second))).await.json();
    assert_eq!((names(&third), &third["has_more"]), (vec!["c0".into()], &json!(false)));
    let back = server.get(&format!("/v1/customers?limit=2&ending_before={}", last(&third))).await.json();
    assert_eq!((names(&back), &back["has_more"]), (vec!["c2".into(), "c1".into()], &json!(true)));
}

async fn every_price_model_is_stored_as_it_was_sent(server: Server) {
    let meter = json!({ "event_name": "calls", "display_name": "API calls", "aggregation": "sum", "unit_label": "call" });
    created(&server, "/v1/meters", meter).await;
    let tiers = json!([
        { "up_to": "1000", "unit_amount_decimal": "0.5", "flat_amount": 100 },
        { "up_to": null, "unit_amount_decimal": "0.000000000001", "flat_amount": 0 }
    ]);
    let models = [
        json!({ "model": "per_unit", "unit_amount_decimal": "0.2" }),
        json!({ "model": "graduated", "tiers": tiers }),
        json!({ "model": "volume", "tiers": tiers }),
        json!({ "model": "package", "package_size": "100", "package_amount": 500 }),
    ];
    for model in models {
        let mut body = json!({ "name": "Calls", "meter": "calls", "currency": "usd", "included_quantity": "10", "minimum_amount": 50 });
        body.as_object_mut().unwrap().extend(model.as_object().unwrap().clone());
        let price = created(&server, "/v1/prices", body.clone()).await;
        for (field, value) in body.as_object().unwrap().iter().filter(|(field, _)| *field != "meter") {
            assert_eq!(&price[field], value, "{price}");
        }
        let stored =
            server.get(&format!("/v1/prices/{}?expand[]=meter", price["id"].as_str().unwrap())).await.json();
        assert_eq!((&stored["meter"]["event_name"], &stored["tiers"]), (&json!("calls"), &price["tiers"]));
    }
    let flat = json!({ "name": "Fee", "currency": "jpy", "model": "flat", "flat_amount": 4900 });
    assert_eq!(created(&server, "/v1/prices", flat).await["meter"], Value::Null);
}

async fn a_customer_begins_with_the_days_on_which_they_are_billed(server: Server) {
    let days = |from: &str, until: &str| json!({ "name": "Ada", "currency": "usd", "active_from": from, "active_until": until });
    let ada = created(&server, "/v1/customers", days("2026-11-15", "2027-11-15")).await;
    assert_eq!(
        (&ada["active_from"], &ada["active_until"]),
        (&json!("2026-11-15"), &json!("2027-11-15")),
        "{ada}"
    );
    for wrong in [days("2026-11-31", "2027-01-01"), days("2026-11-15", "2026-11-14"), days("", "2027-01-01")]
    {
        assert_eq!(server.post("/v1/customers", wrong.clone()).await.status, 422, "{wrong}");
    }
}

async fn an_archived_price_stays_with_its_services_and_takes_no_new_ones(server: Server) {
    created(&server, "/v1/customers", json!({ "name": "Ada", "currency": "usd", "external_id": "ada" }))
        .await;
    let flat = json!({ "name": "Fee", "currency": "usd", "model": "flat", "flat_amount": 4900 });
    let price = created(&server, "/v1/prices", flat).await["id"].as_str().unwrap().to_owned();
    let service = json!({ "customer": "ada", "price": price });
    created(&server, "/v1/services", service.clone()).await;
    let archived = server.send("POST", &format!("/v1/prices/{price}/archive"), "").await.json();
    assert_eq!(archived["active"], false);
    assert_eq!(server.post("/v1/services", service).await.status, 422);
    assert_eq!(
        server.get("/v1/services?customer=ada&expand[]=price&expand[]=customer").await.json()["data"][0]["price"]
            ["active"],
        false
    );
    assert_eq!(server.get("/v1/prices?active=true").await.json()["data"], json!([]));
}

async fn an_incident_is_closed_by_a_human_once(server: Server) {
    let now = server.app.clock.now_ms();
    let new =
        NewIncident { id: "ot_inc_1", kind: "draft_deleted", subject: "ot_inv_1", message: "Look.", now };
    let mut tx = server.app.store.db.begin().await.unwrap();
    tx.report_incident(&new).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(server.get("/v1/incidents").await.json()["data"][0]["resolved_at"], Value::Null);
    let first = server.send("POST", "/v1/incidents/ot_inc_1/resolve", "").await;
    assert_eq!((first.status, &first.json()["resolved_at"]), (200, &json!("2026-11-21T12:00:00Z")));
    server.app.clock.move_to(noon() + TimeDelta::minutes(1));
    let again = server.send("POST", "/v1/incidents/ot_inc_1/resolve", "").await;
    assert_eq!(again.json(), first.json());
    assert_eq!(server.get("/v1/incidents").await.json()["data"], json!([]));
    for unknown in ["ot_inc_2", "ot_cus_1"] {
        assert_eq!(
            server.send("POST", &format!("/v1/incidents/{unknown}/resolve"), "").await.slug(),
            "not-found"
        );
    }
    let rows = opentab::internals::store::both("select actor from audit where action = 'incident.resolved'");
    let rows: Vec<(String,)> = server.app.store.db.all(rows, ()).await.unwrap();
    assert!(matches!(&rows[..], [(actor,)] if actor.starts_with("ot_key_")), "{rows:?}");
}

/// The cycles of the only customer with their versions.
async fn cycles(server: &Server) -> Vec<(String, i64)> {
    let sql = opentab::internals::store::both("select cycle, version from billing_cycle order by cycle");
    server.app.store.db.all(sql, ()).await.unwrap()
}

async fn a_service_from_the_past_bills_the_cycles_since_then(server: Server) {
    created(&server, "/v1/customers", json!({ "name": "Ada", "currency": "usd", "external_id": "ada" }))
        .await;
    let before = cycles(&server).await;
    assert_eq!(before.len(), 1);
    let flat = json!({ "name": "Fee", "currency": "usd", "model": "flat", "flat_amount": 4900 });
    let price = created(&server, "/v1/prices", flat).await["id"].clone();
    let service =
        created(&server, "/v1/services", json!({ "customer": "ada", "price": price, "from": "2026-09-30" }))
            .await;
    let marked = cycles(&server).await;
    let names: Vec<&str> = marked.iter().map(|(cycle, _)| cycle.as_str()).collect();
    assert_eq!(names, ["2026-09-01", "2026-10-01", "2026-11-01"]);

    let path = format!("/v1/services/{}", service["id"].as_str().unwrap());
    assert_eq!(server.post(&path, json!({ "until": "2026-10-05" })).await.json()["until"], "2026-10-05");
    let after = cycles(&server).await;
    let grown: Vec<bool> = marked.iter().zip(&after).map(|(before, after)| after.1 > before.1).collect();
    assert_eq!(grown, [false, true, true]);
    assert_eq!(server.post(&path, json!({ "until": "2026-09-29" })).await.status, 422);
    assert_eq!(server.post(&path, json!({ "until": null })).await.json()["until"], Value::Null);
    assert_eq!(server.post(&path, json!({ "price": price })).await.status, 422);
}

async fn a_service_begins_today_where_the_customer_is(server: Server) {
    let body =
        json!({ "name": "Kiri", "currency": "usd", "external_id": "k", "time_zone": "Pacific/Kiritimati" });
    created(&server, "/v1/customers", body).await;
    let flat = json!({ "name": "Fee", "currency": "usd", "model": "flat", "flat_amount": 4900 });
    let price = created(&server, "/v1/prices", flat).await["id"].clone();
    assert_eq!(
        created(&server, "/v1/services", json!({ "customer": "k", "price": price })).await["from"],
        "2026-11-22"
    );
}

async fn the_document_describes_every_route_and_its_scope(server: Server) {
    let document = server.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for route in route_list(&server.app).iter().filter(|route| route.method != "*") {
        let operation = &document["paths"][&route.path][route.method.to_lowercase()];
        assert!(operation["summary"].is_string(), "{route:?}");
        let scope = operation["security"][0]["api_key"][0].as_str();
        match route.access {
            Access::Key(needed) => assert_eq!(scope, Some(needed.as_str()), "{route:?}"),
            Access::Public | Access::Console(_) | Access::Checked(_) => assert_eq!(scope, None, "{route:?}"),
        }
    }
    let problem = &document["components"]["schemas"]["Problem"];
    assert!(problem["properties"]["instance"].is_object(), "{problem}");
    let page = server.get("/docs").await;
    assert!(page.body.contains("/v1/prices/{id}/archive"));
    assert!(!page.body.contains("src=") && !page.body.contains("<script"));
}

async fn every_change_leaves_an_audit_row_with_the_key_that_asked(server: Server) {
    let customer = created(&server, "/v1/customers", json!({ "name": "Ada", "currency": "usd" })).await;
    let path = format!("/v1/customers/{}", customer["id"].as_str().unwrap());
    server.post(&path, json!({ "name": "Ada L." })).await;
    server.post(&path, json!({ "name": "Ada L." })).await;
    let sql = opentab::internals::store::both(
        "select action, actor, subject from audit where subject = $1 order by at, action",
    );
    let rows: Vec<(String, String, String)> =
        server.app.store.db.all(sql, (customer["id"].as_str().unwrap(),)).await.unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(actions, ["customer.created", "customer.updated"]);
    assert!(rows.iter().all(|row| row.1.starts_with("ot_key_")));
}

on_both!(
    a_customer_is_created_retrieved_updated_and_listed,
    what_invoices_and_usage_stand_on_never_changes,
    a_unique_value_belongs_to_one_object,
    an_incident_is_closed_by_a_human_once,
    metadata_is_merged_and_an_empty_value_removes_its_key,
    pages_tile_a_list_in_both_directions,
    every_price_model_is_stored_as_it_was_sent,
    a_customer_begins_with_the_days_on_which_they_are_billed,
    an_archived_price_stays_with_its_services_and_takes_no_new_ones,
    a_service_from_the_past_bills_the_cycles_since_then,
    a_service_begins_today_where_the_customer_is,
    the_document_describes_every_route_and_its_scope,
    every_change_leaves_an_audit_row_with_the_key_that_asked,
);
