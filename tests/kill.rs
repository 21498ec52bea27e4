//! The real binary, killed: what was acknowledged is there, once, and what was begun goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use opentab::sandbox::{Options, Sandbox};
use serde_json::{Value, json};

/// A server that is killed when it is dropped: no chance to finish anything.
struct Server {
    process: Child,
    base: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(folder: &Path, stripe: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opentab"));
    command
        .current_dir(folder)
        .env("DATABASE_URL", format!("sqlite:{}", folder.join("opentab.db").display()))
        .env("STRIPE_SECRET_KEY", "sk_test_sandbox")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_kill")
        .env("STRIPE_API_BASE", stripe)
        .env("OPENTAB_STRIPE_RATE", "1000")
        .env("OPENTAB_STRIPE_ENDPOINT_RATE", "1000");
    command
}

async fn serve(folder: &Path, stripe: &str) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = command(folder, stripe);
    command.arg("serve").env("OPENTAB_LISTEN", format!("127.0.0.1:{port}")).stderr(Stdio::null());
    let server = Server { process: command.spawn().unwrap(), base: format!("http://127.0.0.1:{port}") };
    let patience = Instant::now() + Duration::from_secs(60);
    while reqwest::get(format!("{}/healthz", server.base)).await.is_err() {
        assert!(Instant::now() < patience, "the server never came up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server
}

/// The answer, or none where the server died before it came.
async fn post(base: &str, key: &str, path: &str, body: &Value) -> Option<Value> {
    let request = reqwest::Client::new().post(format!("{base}{path}")).bearer_auth(key);
    let request = request.header("content-type", "application/json").body(body.to_string());
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    assert!(status.is_success(), "{path}: {status} {body}");
    Some(body)
}

async fn get(base: &str, key: &str, path: &str) -> Value {
    let answer = reqwest::Client::new().get(format!("{base}{path}")).bearer_auth(key).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

fn batch(no: usize) -> Value {
    let event = |at: usize| json!({ "id": format!("b{no}-e{at}"), "customer": "ada", "meter": "calls", "quantity": 1 });
    json!({ "events": (0..100).map(event).collect::<Vec<_>>() })
}

async fn set_up(base: &str, key: &str) {
    let meter = json!({ "event_name": "calls", "display_name": "Calls", "aggregation": "sum" });
    post(base, key, "/v1/meters", &meter).await.unwrap();
    let price = json!({ "name": "Calls", "meter": "calls", "currency": "usd", "model": "per_unit", "unit_amount_decimal": "1" });
    let price = post(base, key, "/v1/prices", &price).await.unwrap();
    let customer = json!({ "name": "Ada", "external_id": "ada", "currency": "usd" });
    post(base, key, "/v1/customers", &customer).await.unwrap();
    post(base, key, "/v1/services", &json!({ "customer": "ada", "price": price["id"] })).await.unwrap();
}

/// Every batch is sent until it is answered, by a server that is killed and started again in between, and then once
/// more: each event counts once, on the draft too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_sent_twice_around_a_kill_counts_once() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    const BATCHES: usize = 30;
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(Options::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stripe = format!("http://{}", listener.local_addr().unwrap());
    let router = sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let made = command(folder.path(), &stripe).args(["keys", "create", "--json"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key: Value = serde_json::from_slice(&made.stdout).unwrap();
    let key = key["secret"].as_str().unwrap().to_owned();
    let mut server = serve(folder.path(), &stripe).await;
    set_up(&server.base, &key).await;

    let mut kills = 0;
    for no in 0..BATCHES {
        let (base, key_) = (server.base.clone(), key.clone());
        let sending = tokio::spawn(async move { post(&base, &key_, "/v1/usage", &batch(no)).await });
        if no % 5 == 2 {
            // In the middle of the request, and of a sync.
            let (base, key_) = (server.base.clone(), key.clone());
            tokio::spawn(async move { post(&base, &key_, "/sync?customer=ada", &json!({})).await });
            tokio::time::sleep(Duration::from_millis(no as u64)).await;
            drop(server);
            kills += 1;
            server = serve(folder.path(), &stripe).await;
        }
        sending.await.unwrap();
        let answer = post(&server.base, &key, "/v1/usage", &batch(no)).await.unwrap();
        let known = answer["accepted"].as_u64().unwrap() + answer["duplicate"].as_u64().unwrap();
        assert_eq!(known, 100, "{answer}");
    }
    assert_eq!(kills, 6);
    let done = loop {
        // A write that was cut off is asked again first; the one before it may still be running.
        let done = post(&server.base, &key, "/sync?customer=ada", &json!({})).await.unwrap();
        if done["status"] == "done" {
            break done;
        }
    };
    assert_eq!(done["invoices"][0]["total"], (BATCHES * 100) as i64, "{done}");
    let billing = get(&server.base, &key, "/v1/customers/ada/billing").await;
    assert_eq!(billing["current"]["total"], (BATCHES * 100) as i64, "{billing}");
    let opened = sandbox.calls().into_iter().filter(|call| call.operation == "POST /v1/invoices");
    let keys: BTreeSet<_> = opened.map(|call| call.idempotency_key).collect();
    assert_eq!(keys.len(), 1, "more than one draft was asked for");
}
