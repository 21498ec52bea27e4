//! The API's resources, as a user's program sees them.

use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn a_customer_is_created_retrieved_updated_and_listed() {
    let server = Server::start().await;
    let body =
        json!({ "name": "Ada", "currency": "usd", "external_id": "tenant-1", "time_zone": "Europe/Berlin" });
    let created = server.post("/v1/customers", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let customer = created.json();
    let id = customer["id"].as_str().unwrap();
    assert!(id.starts_with("ot_cus_"));
    assert_eq!(customer["created_at"], "2026-11-21T12:00:00Z");
    assert_eq!(server.get(&format!("/v1/customers/{id}")).await.json(), customer);

    let path = format!("/v1/customers/{id}");
    let changed = server.post(&path, json!({ "name": "Ada L.", "email": "a@b.example" })).await;
    assert_eq!(changed.json()["name"], "Ada L.");
    let listed = server.get("/v1/customers?external_id=tenant-1").await.json();
    assert_eq!((&listed["object"], &listed["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(listed["data"][0]["email"], "a@b.example");
    assert_eq!(server.get("/v1/customers?external_id=tenant-2").await.json()["data"], json!([]));
}
