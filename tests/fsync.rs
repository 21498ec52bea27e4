//! The real binary under strace: nothing is acknowledged, and nothing is sent to Stripe, before the disk has it.
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "support/process.rs"]
mod process;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use opentab_sandbox::Sandbox;
use serde_json::json;

use process::{Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, options, serve_sandbox};

/// What can put a byte on a disk or on a wire.
const TRACED: &str = "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync";

/// A system call, and the lines of the trace on which it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    began: usize,
    ended: usize,
}

impl Call {
    /// The answer of a call is behind its arguments; a call that another thread interrupts is on two lines.
    fn read_all(trace: &str) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut running: HashMap<&str, usize> = HashMap::new();
        for (at, line) in trace.lines().enumerate() {
            let Some((thread, text)) = line.split_once(' ') else { continue };
            let text = text.trim_start();
            if text.starts_with("<...") {
                if let Some(call) = running.remove(thread) {
                    calls[call].ended = at;
                }
            } else if let Some((name, arguments)) = text.split_once('(') {
                let unfinished = text.ends_with("<unfinished ...>");
                if unfinished {
                    running.insert(thread, calls.len());
                }
                let ended = if unfinished { usize::MAX } else { at };
                calls.push(Call { name: name.to_owned(), arguments: arguments.to_owned(), began: at, ended });
            }
        }
        calls
    }

    fn is_sync_of_the_log(&self) -> bool {
        self.name.ends_with("sync") && self.is_on_the_log()
    }

    /// SQLite's write-ahead log: what is there, and synced, is committed.
    fn is_on_the_log(&self) -> bool {
        self.arguments.split(',').next().is_some_and(|file| file.contains("-wal>"))
    }
}

/// What stands on the wire under `what` was on the disk before, by a write that holds `id`.
fn assert_synced_before(calls: &[Call], id: &str, what: &str) {
    let written = calls.iter().find(|call| call.is_on_the_log() && call.arguments.contains(id));
    let written = written.unwrap_or_else(|| panic!("{id} was never written"));
    let told = calls.iter().find(|call| call.began > written.began && call.arguments.contains(what));
    let told = told.unwrap_or_else(|| panic!("nobody was told {what} after {id} was written"));
    let synced =
        |call: &&Call| call.is_sync_of_the_log() && call.began > written.ended && call.ended < told.began;
    let what = what.escape_default();
    assert!(calls.iter().any(|call| synced(&call)), "`{what}` went out before the disk had {id}");
    let sooner = calls.iter().find(|call| call.began < written.began && call.arguments.contains(id));
    assert!(sooner.is_none(), "{id} went somewhere before it was written: {sooner:?}");
}

fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    let tried = strace.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// The server's own process, with strace looking on.
async fn start_traced(home: &Home, trace: &str) -> Server {
    let strace = ["strace", "-D", "-f", "-y", "-s", "65536", "-e", TRACED, "-o", trace];
    let server = Server::start(home.command_under(&strace).arg("serve").stderr(home.log()));
    home.up().await;
    server
}

/// Kills the server and reads everything that it did.
fn end(server: &Server, trace: &Path) -> Vec<Call> {
    let process = server.id().to_string();
    let is_last = |line: &str| line.starts_with(&process) && line.ends_with("+++ killed by SIGKILL +++");
    server.kill();
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned();
        if text.lines().next_back().is_some_and(is_last) {
            return Call::read_all(&text);
        }
        assert!(Instant::now() < patience, "strace did not see the server's end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_has_it_before_anybody_is_told() {
    if !can_trace() {
        // Not into the captured output, where nobody would see it.
        let said = "SKIPPED: strace is not here, or may not trace, so nobody sees fsync before the answer";
        return writeln!(std::io::stderr().lock(), "{said}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(options());
    let stripe = serve_sandbox(&sandbox).await;
    sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
    let home = Home::on_sqlite(folder.path(), &stripe);
    let client = Client::new(&home.create_key());
    let trace = folder.path().join("trace");
    let server = start_traced(&home, &trace.display().to_string()).await;
    let base = &home.base;

    let meter = json!({ "event_name": "calls", "display_name": "Calls", "aggregation": "sum" });
    client.create(base, "/v1/meters", meter).await;
    let fee = json!({ "name": "Fee", "currency": "usd", "model": "flat", "flat_amount": 500 });
    let fee = client.create(base, "/v1/prices", fee).await;
    client
        .create(base, "/v1/customers", json!({ "name": "Ada", "external_id": "ada", "currency": "usd" }))
        .await;
    for id in ["usage-one", "usage-two"] {
        let event = json!({ "id": id, "customer": "ada", "meter": "calls", "quantity": 1 });
        client.create(base, "/v1/usage", event).await;
    }
    let batch: Vec<_> = ["batch-one", "batch-two"]
        .map(|id| json!({ "id": id, "customer": "ada", "meter": "calls", "quantity": 1 }))
        .to_vec();
    client.create(base, "/v1/usage", json!({ "events": batch })).await;
    Client::new(STRIPE_KEY).post_form(&stripe, "/v1/customers", "name=Ada").await.unwrap();
    let http = reqwest::Client::new();
    let webhook = sandbox.deliveries_due().remove(0);
    assert_eq!(deliver(&http, base, &webhook).await, Some(200));
    client.create(base, "/v1/services", json!({ "customer": "ada", "price": fee["id"] })).await;
    client.create(base, "/sync?customer=ada", json!({})).await;

    let calls = end(&server, &trace);
    let syncs = calls.iter().filter(|call| call.is_sync_of_the_log()).count();
    assert!(syncs >= 5, "strace was there and saw {syncs} syncs of the log: nothing would be proved");
    for id in ["usage-one", "usage-two", "batch-one", "batch-two", &webhook.event_id] {
        assert_synced_before(&calls, id, "HTTP/1.1 200 OK");
    }
    // What is sent to Stripe was written down before, under the same key.
    let keys: Vec<_> = sandbox.calls().into_iter().filter_map(|call| call.idempotency_key).collect();
    assert!(keys.len() >= 3, "{keys:?}");
    for key in keys {
        assert_synced_before(&calls, &key, &format!("idempotency-key: {key}"));
    }
}
