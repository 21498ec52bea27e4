//! Canaries: whatever a test is about, no secret of its Opentab reaches a log, the database, an answer, an e-mail or a
//! webhook. Everything is looked at as it comes by, and the database when the test ends.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http_body_util::BodyExt;
use opentab::internals::app::App;
use opentab::internals::http;
use opentab::internals::http::extract::Limits;
use opentab::internals::store::{Db, NewIncident};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::secrets::{MARK, secret_in};
use crate::server::Server;
use crate::tab::Tab;

/// What was found so far and nobody has complained of. Logs are of the whole process, so another test may have to.
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What stands in the database because it has to: what links and outgoing webhooks are signed with.
const KEPT: &[&str] = &["setting", "webhook_endpoint"];

/// What was made for whoever asks, and is told to them.
const TOLD_ONCE: &[(&str, &str)] = &[
    ("/billing_links", "a billing link"),
    ("/billing/", "a session of the billing page"),
    ("/v1/webhook_endpoints", "a secret of webhooks"),
];

/// Remembers a secret in this text, which was said at this place.
pub(crate) fn look(place: &str, text: &str) {
    if let Some(secret) = secret_in(text) {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{place} ({test}): {secret}"));
    }
}

/// Fails where a secret was found anywhere.
pub(crate) fn complain() {
    let found = std::mem::take(&mut *FOUND.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(found.is_empty(), "secrets got out:\n{}", found.join("\n"));
}

/// Takes every line of the log, of all tests at once, and keeps none.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(line);
        look("the log", &line);
        if line.contains("@example.com") {
            FOUND
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("an address in the log: {line}"));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on everything that is logged is looked at.
pub(crate) fn watch_the_log() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let log = tracing_subscriber::fmt().with_env_filter("debug,opentab=trace").with_writer(|| Lines);
        log.with_ansi(false).init();
    });
}

/// The product's router, whose every answer is looked at.
pub(crate) fn router(app: App) -> Router {
    watched(http::router(app))
}

/// The same with limits.
pub(crate) fn router_with(app: App, limits: Limits) -> Router {
    watched(http::router_with(app, limits))
}

fn watched(router: Router) -> Router {
    router.layer(from_fn(|request: Request, next: Next| async move {
        let asked = format!("{} {}", request.method(), request.uri().path());
        let (head, body) = next.run(request).await.into_parts();
        look_at_answer(&asked, &format!("{:?}", head.headers), "");
        let body = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                look_at_answer(&asked, "", &String::from_utf8_lossy(data));
            }
            frame
        });
        Response::from_parts(head, Body::new(body))
    }))
}

/// Looks at an answer.
pub(crate) fn look_at_answer(asked: &str, head: &str, body: &str) {
    for said in [head, body] {
        let is_for_them = |secret: &str| {
            TOLD_ONCE.iter().any(|(path, what)| asked.contains(path) && secret.starts_with(what))
        };
        if secret_in(said).is_some_and(|secret| !is_for_them(&secret)) {
            look(&format!("an answer to {asked}"), said);
        }
    }
}

/// Looks at everything that a test's Opentab has written down.
pub(crate) fn look_at_database(db: &Db) {
    for table in tables_with_secrets(db) {
        look("the database", &format!("{MARK} or a key in the table {table}"));
    }
}

/// The tables of which some row holds a secret.
fn tables_with_secrets(db: &Db) -> Vec<String> {
    match db.clone() {
        // By a connection of its own: those of the pool may be on their way back to it.
        Db::Lite { read, .. } => elsewhere(async move { on_sqlite(&read.connect_options()).await }),
        Db::Pg(pool) => elsewhere(async move { on_postgres(&pool.connect_options()).await }),
    }
}

/// Waits where nobody can: what is dropped may not await, and this runtime stands still meanwhile.
fn elsewhere<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    std::thread::spawn(run).join().unwrap()
}

/// `$1` is the mark, `$2` a pattern of keys: written here they would be found in the log.
async fn on_sqlite(options: &SqliteConnectOptions) -> Vec<String> {
    let columns = "select m.name, c.name from sqlite_master m join pragma_table_info(m.name) c
        where m.type = 'table' and m.name not like 'sqlite%' and m.name not like '\\_sqlx%' escape '\\' order by 1";
    let mut connection = options.connect().await.unwrap();
    sqlx::query("pragma read_uncommitted = true").execute(&mut connection).await.unwrap();
    let columns: Vec<(String, String)> = sqlx::query_as(columns).fetch_all(&mut connection).await.unwrap();
    let holds =
        |column: &str| format!("instr(cast({column} as text), $1) > 0 or cast({column} as text) glob $2");
    let search = search(columns, holds);
    let key = format!("*ot_sk_[tl][ei][sv][te]_{}*", "[0-9a-f]".repeat(24));
    let found = sqlx::query_as(AssertSqlSafe(search)).bind(MARK).bind(key);
    let found: Vec<(String,)> = found.fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    found.into_iter().map(|(table,)| table).collect()
}

async fn on_postgres(options: &PgConnectOptions) -> Vec<String> {
    let tables = "select tablename::text, 'one' from pg_tables
        where schemaname = 'public' and tablename not like '\\_sqlx%' order by 1";
    let mut connection = options.connect().await.unwrap();
    sqlx::query("set bytea_output = 'escape'").execute(&mut connection).await.unwrap();
    let tables: Vec<(String, String)> = sqlx::query_as(tables).fetch_all(&mut connection).await.unwrap();
    // A row as a whole: PostgreSQL would plan for every column.
    let search = search(tables, |row| format!("strpos({row}::text, $1) > 0 or {row}::text ~ $2"));
    let found = sqlx::query_as(AssertSqlSafe(search)).bind(MARK).bind("ot_sk_(test|live)_[0-9a-f]{24}");
    let found: Vec<(String,)> = found.fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    found.into_iter().map(|(table,)| table).collect()
}

/// One question for all tables, whose columns come table by table, and a row of which is `one`; it finds nothing where
/// there are none.
fn search(columns: Vec<(String, String)>, holds: impl Fn(&str) -> String) -> String {
    let tables = columns.chunk_by(|one, other| one.0 == other.0);
    let tables = tables.filter(|columns| !KEPT.contains(&columns[0].0.as_str()));
    let question = |columns: &[(String, String)]| {
        let any: Vec<String> = columns.iter().map(|(_, column)| holds(column)).collect();
        let table = &columns[0].0;
        format!(
            "select '{table}' from (select 1 from \"{table}\" one where {} limit 1) found",
            any.join(" or ")
        )
    };
    let nothing = "select '' where $1 = '' and $2 = ''".to_owned();
    std::iter::once(nothing).chain(tables.map(question)).collect::<Vec<_>>().join(" union all ")
}

/// What every test relies on: a secret would be found wherever it got out.
#[tokio::test]
async fn a_secret_would_be_found_wherever_it_got_out() {
    for secret in [
        format!("key {}", crate::secrets::STRIPE_KEY),
        format!("ot_sk_test_{}", "5f".repeat(32)),
        "YmlsbGluZy1saW5rfG90X2N1c18wMUtBVzVCSDBDUkZZV0hYRFNB".to_owned(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
    ] {
        assert!(secret_in(&format!("ä before {secret} and after")).is_some(), "{secret}");
    }
    for harmless in ["ot_sk_…", "Bearer ot_sk_test_wrong", "whsec_AAAA", "ot_cus_01KAW5BH0CRFYWHXDSA"] {
        assert_eq!(secret_in(harmless), None);
    }
    let server = Server::start().await;
    for db in [&Tab::new().await.app.store.db, &server.app.store.db] {
        assert!(tables_with_secrets(db).is_empty());
        for secret in [crate::secrets::SMTP_URL, &server.key] {
            let mut tx = db.begin().await.unwrap();
            let new =
                NewIncident { id: "ot_inc_1", kind: "draft_deleted", subject: "s", message: secret, now: 0 };
            tx.report_incident(&new).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(tables_with_secrets(db), ["incident"]);
            db.run(opentab::internals::store::both("delete from incident"), ()).await.unwrap();
        }
    }
}
