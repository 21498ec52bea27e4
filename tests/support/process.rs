//! Process: the real binary on a port of its own, asked over HTTP, and ended as no process wants to be.

#![allow(dead_code, reason = "each test binary that includes this uses its own part of it")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

#[path = "binary.rs"]
mod binary;
#[path = "secrets.rs"]
mod secrets;

pub(crate) use secrets::{STRIPE_KEY, WEBHOOK_SECRET};

/// Where servers live one after another: a folder, a database, a port, and Stripe.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub folder: PathBuf,
    /// Where the server answers, without a trailing slash.
    pub base: String,
    settings: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new(folder: &Path, database: &str, stripe: &str) -> Home {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = Home {
            folder: folder.to_owned(),
            base: format!("http://127.0.0.1:{port}"),
            settings: Vec::new(),
        };
        home.with("DATABASE_URL", database)
            .with("STRIPE_SECRET_KEY", STRIPE_KEY)
            .with("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .with("STRIPE_API_BASE", stripe)
            .with("OPENTAB_LISTEN", &format!("127.0.0.1:{port}"))
    }

    /// On SQLite, in a file of this folder.
    pub(crate) fn on_sqlite(folder: &Path, stripe: &str) -> Home {
        Home::new(folder, &format!("sqlite:{}", folder.join("opentab.db").display()), stripe)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Home {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn database(&self) -> &str {
        &self.settings[0].1
    }

    /// The binary with this home's settings.
    pub(crate) fn command(&self) -> Command {
        self.command_under(&[])
    }

    /// The same, started by another program.
    pub(crate) fn command_under(&self, program: &[&str]) -> Command {
        let words: Vec<&str> = program.iter().copied().chain([binary::opentab()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(&self.folder);
        // A setting of the tests, which the binary would not know.
        command.env_remove("OPENTAB_TEST_SMTP_PYTHON");
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A new API key that may do everything.
    pub(crate) fn create_key(&self) -> String {
        let made = self.command().args(["keys", "create", "--json"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key: Value = serde_json::from_slice(&made.stdout).unwrap();
        key["secret"].as_str().unwrap().to_owned()
    }

    /// A server whose clock is so many seconds ahead, which needs [`faketime`] unless it is none. Its log is added to
    /// `server.log` in the folder.
    pub(crate) fn serve(&self, seconds_ahead: i64) -> Server {
        let mut command = self.command();
        if seconds_ahead != 0 {
            command
                .env("LD_PRELOAD", faketime().unwrap())
                .env("FAKETIME", format!("{seconds_ahead:+}s"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        Server::start(command.arg("serve").stderr(self.log()))
    }

    pub(crate) fn log(&self) -> File {
        File::options().create(true).append(true).open(self.log_path()).unwrap()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Waits until the server listens.
    pub(crate) async fn up(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        let address = self.base.trim_start_matches("http://");
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < patience, "the server never came up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The library that lets a process live at another time, where it is installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut places =
        folders.chain([PathBuf::from("/usr/lib64")]).map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    places.find(|place| place.exists())
}

/// A running process; killed when the last of its clones is dropped.
#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<Running>>);

struct Running {
    process: Child,
    /// Where its log is, and its database unless that is PostgreSQL.
    folder: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !std::thread::panicking() {
            self.folder.iter().for_each(|folder| no_secret_is_in(folder));
        }
    }
}

/// Neither the server's log nor its database holds a secret of the settings.
fn no_secret_is_in(folder: &Path) {
    for name in ["server.log", "opentab.db", "opentab.db-wal"] {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        let found = String::from_utf8_lossy(&bytes).find(secrets::MARK);
        assert!(found.is_none(), "a secret is in {name}, at byte {found:?}");
    }
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Server {
        let folder = command.get_current_dir().map(Path::to_owned);
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        Server(Arc::new(Mutex::new(Running { process, folder })))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.lock().unwrap().process.id()
    }

    /// SIGKILL: no chance to finish anything. Returns when the process is gone.
    pub(crate) fn kill(&self) {
        let child = &mut self.0.lock().unwrap().process;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends it a signal by name: STOP, and it stands still until CONT.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it ends by itself; answers whether it did so well.
    pub(crate) fn wait(&self) -> bool {
        self.0.lock().unwrap().process.wait().unwrap().success()
    }
}

/// What a server answered, or nothing where the connection ended before.
pub(crate) struct Answered {
    pub status: u16,
    pub body: Value,
}

/// Asks a server in a user's name.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    key: String,
}

impl Client {
    pub(crate) fn new(key: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The server ends idle connections after ten seconds: a request on one of them might cross with that.
        let http = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(5));
        let http = http.timeout(Duration::from_secs(40)).build().unwrap();
        Client { http, key: key.to_owned() }
    }

    pub(crate) async fn get(&self, base: &str, path: &str) -> Option<Answered> {
        answered(self.http.get(format!("{base}{path}")).bearer_auth(&self.key)).await
    }

    pub(crate) async fn post(&self, base: &str, path: &str, body: &Value) -> Option<Answered> {
        let request = self.http.post(format!("{base}{path}")).bearer_auth(&self.key);
        answered(request.header("content-type", "application/json").body(body.to_string())).await
    }

    /// A form, as Stripe takes it.
    pub(crate) async fn post_form(&self, base: &str, path: &str, form: &str) -> Option<Answered> {
        let request = self.http.post(format!("{base}{path}")).bearer_auth(&self.key);
        answered(request.header("content-type", "application/x-www-form-urlencoded").body(form.to_owned()))
            .await
    }

    /// Creates what has to be there; its answer.
    pub(crate) async fn create(&self, base: &str, path: &str, body: Value) -> Value {
        let answer = self.post(base, path, &body).await.unwrap();
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.body);
        answer.body
    }
}

async fn answered(request: reqwest::RequestBuilder) -> Option<Answered> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    let bytes = response.bytes().await.ok()?;
    Some(Answered { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
}

/// Posts a webhook to a server as Stripe does; the status, or none where no answer came.
pub(crate) async fn deliver(
    http: &reqwest::Client,
    base: &str,
    delivery: &opentab_sandbox::Delivery,
) -> Option<u16> {
    let mut request = http.post(format!("{base}/webhooks/stripe")).body(delivery.body.clone());
    for (name, value) in &delivery.headers {
        request = request.header(*name, value);
    }
    Some(request.send().await.ok()?.status().as_u16())
}

/// A sandbox's options, with the key that the servers have.
pub(crate) fn options() -> opentab_sandbox::Options {
    opentab_sandbox::Options { api_keys: vec![STRIPE_KEY.to_owned()], ..Default::default() }
}

/// Serves a sandbox on a port of its own; where it is, without a trailing slash.
pub(crate) async fn serve_sandbox(sandbox: &opentab_sandbox::Sandbox) -> String {
    listen(sandbox.router()).await
}

/// Serves these routes on a port of their own; where they are, without a trailing slash.
pub(crate) async fn listen(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    base
}

/// A new database on this server, whose name begins so; its address.
pub(crate) async fn fresh_postgres(server: &str, prefix: &str) -> String {
    let name = format!("{prefix}_{:032x}", rand::random::<u128>());
    let mut admin = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut admin).await.unwrap();
    let (address, options) = server.split_once('?').unwrap_or((server, ""));
    let address = address.rsplit_once('/').map_or(address, |(address, _)| address);
    format!("{address}/{name}?{options}")
}
