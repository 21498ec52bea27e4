//! Storage that fails under the real binary: a full disk, a disk that errs, a lock that another program holds, a disk that
//! may not be written. It is said clearly, nothing that was acknowledged is lost, and it goes on when it can.
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "support/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use opentab::internals::store::{Db, both};
use opentab_sandbox::Sandbox;
use serde_json::{Value, json};

use process::{Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, options, serve_sandbox};

const PATIENCE: Duration = Duration::from_secs(60);
/// Events in one request: enough for the disk to notice.
const BATCH: usize = 500;

/// A disk of a few megabytes; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    /// None where this user may not mount one.
    fn new(folder: &Path) -> Option<Disk> {
        let at = folder.join("disk");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&at).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: no disk can be mounted here, so none runs full");
        }
        mounted.then_some(Disk(at))
    }

    /// Takes up all the room that is left.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for size in [65_536, 4_096, 512, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn remount(&self, how: &str) {
        let mounted = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status();
        assert!(mounted.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A server, its user, and what the user was told.
struct Shop {
    home: Home,
    file: PathBuf,
    sandbox: Sandbox,
    stripe: String,
    client: Client,
    server: Server,
    sent: usize,
    acknowledged: BTreeSet<String>,
}

impl Shop {
    /// With its database in this folder, started by this program.
    async fn open(folder: &Path, database: &Path, under: &[&str]) -> Shop {
        let file = database.join("opentab.db");
        let sandbox = Sandbox::new(options());
        let stripe = serve_sandbox(&sandbox).await;
        sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
        let home = Home::new(folder, &format!("sqlite:{}", file.display()), &stripe);
        let client = Client::new(&home.create_key());
        let server = Server::start(home.command_under(under).arg("serve").stderr(home.log()));
        home.up().await;
        let meter = json!({ "event_name": "calls", "display_name": "Calls", "aggregation": "sum" });
        client.create(&home.base, "/v1/meters", meter).await;
        let ada = json!({ "name": "Ada", "external_id": "ada", "currency": "usd" });
        client.create(&home.base, "/v1/customers", ada).await;
        let (sent, acknowledged) = (0, BTreeSet::new());
        Shop { home, file, sandbox, stripe, client, server, sent, acknowledged }
    }

    fn next_batch(&mut self) -> Vec<Value> {
        let event =
            |no: usize| json!({ "id": format!("e{no}"), "customer": "ada", "meter": "calls", "quantity": 1 });
        let from = self.sent;
        self.sent += BATCH;
        (from..self.sent).map(event).collect()
    }

    /// Sends usage; whether it was acknowledged. What is refused says why and when to come again.
    async fn sends(&mut self, batch: &[Value]) -> bool {
        let answer =
            self.client.post(&self.home.base, "/v1/usage", &json!({ "events": batch })).await.unwrap();
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert!(
                answer.body["type"].as_str().unwrap().ends_with("/storage-unavailable"),
                "{}",
                answer.body
            );
            return false;
        }
        for (event, result) in batch.iter().zip(answer.body["results"].as_array().unwrap()) {
            assert!(matches!(result["result"].as_str(), Some("accepted" | "duplicate")), "{result}");
            self.acknowledged.insert(event["id"].as_str().unwrap().to_owned());
        }
        true
    }

    /// Sends until something is refused; what that was.
    async fn sends_until_refused(&mut self) -> Vec<Value> {
        for _ in 0..200 {
            let batch = self.next_batch();
            if !self.sends(&batch).await {
                return batch;
            }
        }
        panic!("nothing was ever refused");
    }

    /// `/readyz` turns red and says what it is, while the process lives.
    async fn is_red(&self) {
        let ready = self.readiness(503).await;
        assert_eq!(ready["reasons"][0]["code"], "database_takes_no_writes", "{ready}");
        let alive = reqwest::get(format!("{}/healthz", self.home.base)).await.unwrap();
        assert_eq!(alive.status(), 200);
    }

    /// Stripe is not told that a webhook is taken, and sends it again.
    async fn takes_no_webhook(&self) {
        Client::new(STRIPE_KEY).post_form(&self.stripe, "/v1/customers", "name=Eve").await.unwrap();
        let webhook = self.sandbox.deliveries_due().remove(0);
        assert_eq!(deliver(&reqwest::Client::new(), &self.home.base, &webhook).await, Some(503));
    }

    async fn readiness(&self, status: u16) -> Value {
        let patience = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.get(&self.home.base, "/readyz").await.unwrap();
            if answer.status == status {
                return answer.body;
            }
            assert!(Instant::now() < patience, "/readyz stays {}: {}", answer.status, answer.body);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Without a restart: what was refused is taken now, once, and nothing is missing, not even after a crash.
    async fn goes_on(&mut self, refused: &[Value]) {
        self.readiness(200).await;
        assert!(self.sends(refused).await, "it is still refused: {}", self.log());
        let batch = self.next_batch();
        assert!(self.sends(&batch).await);
        self.server.kill();
        let db = Db::open(&format!("sqlite:{}", self.file.display()).parse().unwrap()).await.unwrap();
        let rows: Vec<(String,)> = db.all(both("select event_id from usage_event"), ()).await.unwrap();
        let stored: BTreeSet<String> = rows.iter().map(|(id,)| id.clone()).collect();
        assert_eq!((stored.len(), &stored), (rows.len(), &self.acknowledged));
        let (total,): (i64,) = db.one(both("select sum(quantity) from usage_total"), ()).await.unwrap();
        assert_eq!(total, rows.len() as i64);
        db.close().await;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.log_path()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_loses_nothing_and_is_over_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(folder.path()) else { return };
    let mut shop = Shop::open(folder.path(), &disk.0, &[]).await;
    let batch = shop.next_batch();
    assert!(shop.sends(&batch).await);
    disk.fill();
    let refused = shop.sends_until_refused().await;
    shop.is_red().await;
    shop.takes_no_webhook().await;
    assert!(shop.log().contains("database or disk is full"), "{}", shop.log());
    disk.make_room();
    shop.goes_on(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_errs_is_said_loses_nothing_and_is_over_when_it_works_again() {
    let folder = tempfile::tempdir().unwrap();
    // A file that may not grow fails as a broken disk does; the signal that comes with it would end the process.
    let mut shop = Shop::open(folder.path(), folder.path(), &["env", "--ignore-signal=XFSZ"]).await;
    let batch = shop.next_batch();
    assert!(shop.sends(&batch).await);
    let process = shop.server.id().to_string();
    let limit = |bytes: &str| {
        let size = format!("--fsize={bytes}:unlimited");
        let limited = Command::new("prlimit").args(["--pid", &process, &size]).status();
        limited.is_ok_and(|status| status.success())
    };
    let sizes = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    if !limit(&(sizes.max().unwrap() + 300_000).to_string()) {
        return eprintln!("SKIPPED: prlimit is not here, or may not limit, so no disk errs");
    }
    let refused = shop.sends_until_refused().await;
    shop.is_red().await;
    shop.takes_no_webhook().await;
    assert!(shop.log().contains("disk I/O error"), "{}", shop.log());
    assert!(limit("unlimited"));
    shop.goes_on(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_another_program_locks_is_said_and_goes_on_when_it_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut shop = Shop::open(folder.path(), folder.path(), &[]).await;
    let batch = shop.next_batch();
    assert!(shop.sends(&batch).await);
    let other = rusqlite::Connection::open(&shop.file).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let refused = shop.sends_until_refused().await;
    shop.is_red().await;
    assert!(shop.log().contains("database is locked"), "{}", shop.log());
    other.execute_batch("rollback").unwrap();
    shop.goes_on(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_a_disk_that_may_not_be_written_does_not_start_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(folder.path()) else { return };
    let mut shop = Shop::open(folder.path(), &disk.0, &[]).await;
    let batch = shop.next_batch();
    assert!(shop.sends(&batch).await);
    shop.server.kill();
    disk.remount("ro");
    let refused = shop.home.command().arg("serve").output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(said.contains("opentab.db") && said.contains("Read-only file system"), "{said}");
    disk.remount("rw");
    shop.server = shop.home.serve(0);
    shop.home.up().await;
    shop.goes_on(&batch).await;
}
