//! A server on a real socket, and a client that sends exactly the bytes it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::commands::keys;
use opentab::internals::config::Config;
use opentab::internals::http::extract::Limits;
use opentab::internals::http::{self, serve};
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::{Db, Location, Store};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::canaries;
use crate::secrets::{STRIPE_KEY, WEBHOOK_SECRET};

/// A running server with an empty database and an admin's key.
pub(crate) struct Server {
    pub app: App,
    pub key: String,
    address: std::net::SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            canaries::look_at_database(&self.app.store.db);
            canaries::complain();
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The last part of the problem's type, after checking that it is a whole problem.
    pub(crate) fn slug(&self) -> String {
        let problem = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["instance"], self.headers["request-id"].as_str(), "{self:?}");
        let slug = problem["type"].as_str().and_then(|url| url.strip_prefix("http://opentab.test/problems/"));
        slug.unwrap_or_else(|| panic!("no type: {self:?}")).to_owned()
    }
}

pub(crate) fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 21, 12, 0, 0).unwrap()
}

impl Server {
    pub(crate) async fn start() -> Server {
        Server::with("2000", Limits::default()).await
    }

    /// On PostgreSQL, in a new database, where a server is named.
    pub(crate) async fn start_on_postgres() -> Option<Server> {
        let url = std::env::var("TEST_POSTGRES_URL").ok()?;
        Some(Server::on(&fresh_postgres(&url).await, "2000", Limits::default()).await)
    }

    /// With a rate of requests a second, and limits.
    pub(crate) async fn with(rate: &str, limits: Limits) -> Server {
        Server::on(&Location::Memory, rate, limits).await
    }

    async fn on(location: &Location, rate: &str, limits: Limits) -> Server {
        Server::of(app(location, rate).await, limits).await
    }

    /// On a socket of its own, whatever stands behind the app.
    pub(crate) async fn of(app: App, limits: Limits) -> Server {
        canaries::watch_the_log();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve::serve(listener, http::router_with(app.clone(), limits), std::future::pending()));
        let key = new_key(&app, Scope::Admin, false, None).await;
        Server { app, key, address }
    }

    /// Sends a request with the admin's key; a body goes as JSON.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let head = if body.is_empty() {
            String::new()
        } else {
            format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
        };
        self.raw(&self.head(method, path, &head), body.as_bytes()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").await
    }

    /// A POST with one more header.
    pub(crate) async fn post_with(&self, path: &str, header: &str, body: Value) -> Reply {
        let body = body.to_string();
        let head =
            format!("content-type: application/json\r\ncontent-length: {}\r\n{header}\r\n", body.len());
        self.raw(&self.head("POST", path, &head), body.as_bytes()).await
    }

    /// A request without a body and without a key, as a browser or a stranger sends it.
    pub(crate) async fn anonymous(&self, method: &str, path: &str, headers: &str) -> Reply {
        self.raw(&anonymous_head(method, path, headers), b"").await
    }

    /// A request without a body, with this key.
    pub(crate) async fn with_key(&self, method: &str, path: &str, key: &str) -> Reply {
        self.anonymous(method, path, &format!("authorization: Bearer {key}\r\n")).await
    }

    /// A request's head with the admin's key.
    pub(crate) fn head(&self, method: &str, path: &str, headers: &str) -> String {
        anonymous_head(method, path, &format!("authorization: Bearer {}\r\n{headers}", self.key))
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) async fn raw(&self, head: &str, body: &[u8]) -> Reply {
        self.stream(head, std::iter::once(body)).await
    }

    /// The same, of a body that comes piece by piece.
    pub(crate) async fn stream(&self, head: &str, pieces: impl Iterator<Item = &[u8]>) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let mut bytes = Vec::new();
        let write = async {
            // The server may answer, and close, before it has read everything.
            let _ = writer.write_all(head.as_bytes()).await;
            for piece in pieces {
                if writer.write_all(piece).await.is_err() {
                    break;
                }
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(60), reader.read_to_end(&mut bytes));
        let (_, read) = tokio::join!(write, read);
        let _ = read.expect("the server never answered");
        let reply = read_reply(&bytes);
        let asked = head.lines().next().unwrap_or_default();
        canaries::look_at_answer(asked, &format!("{:?}", reply.headers), &reply.body);
        reply
    }
}

/// A request's head without a key.
pub(crate) fn anonymous_head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: opentab.test\r\nconnection: close\r\n{headers}\r\n")
}

fn read_reply(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Reply { status: status.unwrap_or(0), headers, body: body.to_owned() }
}

/// A Stripe that nobody reaches: these tests end before it.
#[derive(Debug)]
struct Unreachable;

impl Transport for Unreachable {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("there is no Stripe here".to_owned()) })
    }
}

/// A new, empty database beside the one that this URL names.
async fn fresh_postgres(url: &str) -> Location {
    let name = format!("api_{:032x}", rand::random::<u128>());
    let server = Db::open(&url.parse().unwrap()).await.unwrap();
    let Db::Pg(pool) = &server else { panic!("TEST_POSTGRES_URL does not name PostgreSQL") };
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(pool).await.unwrap();
    let (base, _) = url.rsplit_once('/').unwrap();
    server.close().await;
    Location::Postgres(format!("{base}/{name}"))
}

async fn app(location: &Location, rate: &str) -> App {
    let settings = [
        ("STRIPE_SECRET_KEY", STRIPE_KEY),
        ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("OPENTAB_PUBLIC_URL", "http://opentab.test"),
        ("OPENTAB_REQUESTS_PER_SECOND", rate),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_sources(settings.into(), "").unwrap();
    let store = Store { db: Db::open(location).await.unwrap() };
    store.db.migrate().await.unwrap();
    let clock = Clock::set_at(noon());
    let stripe = Stripe::new(Arc::new(Unreachable), Pacer::unlimited());
    app::build(config, clock.clone(), Ids::random(clock), store, stripe)
}

/// The text of a new key.
pub(crate) async fn new_key(
    app: &App,
    scope: Scope,
    livemode: bool,
    expires_at: Option<DateTime<Utc>>,
) -> String {
    let scopes = BTreeSet::from([scope]);
    let now = app.clock.now();
    keys::create(&app.store, &app.ids, now, "test", scopes, livemode, expires_at).await.unwrap().secret
}

/// Runs each of these scenarios on SQLite, and on PostgreSQL where a server is named.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::server::Server::start().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                match $crate::server::Server::start_on_postgres().await {
                    Some(server) => super::$name(server).await,
                    None => eprintln!("skipped: TEST_POSTGRES_URL is not set"),
                }
            })+
        }
    };
}
pub(crate) use on_both;
