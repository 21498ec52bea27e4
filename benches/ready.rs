//! How soon the real binary is ready, and how much memory it takes when idle, with a million events in its SQLite file.
//!
//! `cargo bench --bench ready`; it ends with 1 where the p99 is not below [`GOAL`]. `BENCH_EVENTS` the history (1000000), `BENCH_STARTS` how often it is started (100),
//! `BENCH_BINARY` another binary than the one that was just built, `BENCH_IDLE` seconds before memory is read (5).
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use opentab::internals::commands::open;
use opentab::internals::config::Config;
use rusqlite::Connection;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CUSTOMERS: i64 = 1_000;
const EVENTS_A_DAY: i64 = 20_000;
/// A restart is over before a load balancer, or whoever waits for an answer, has noticed it.
const GOAL: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() -> Result<()> {
    _ = rustls::crypto::ring::default_provider().install_default();
    let (events, starts) = (number("BENCH_EVENTS", 1_000_000), number("BENCH_STARTS", 100) as usize);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("opentab.db");
    schema(&file).await?;
    fill(&file, events)?;
    let size = std::fs::metadata(&file)?.len() / 1_048_576;
    println!("{events} usage events, {} webhook events, {CUSTOMERS} customers: {size} MiB", events / 100);
    let mut slowest = Duration::ZERO;
    for (how, kill) in [("after SIGTERM", false), ("after SIGKILL", true)] {
        let mut times = Vec::with_capacity(starts);
        for _ in 0..starts {
            let (mut server, time) = start(folder.path(), &file)?;
            times.push(time);
            stop(&mut server, kill)?;
        }
        times.sort();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        let [half, most, all] = [50, 99, 100].map(|percent| at(percent).as_millis());
        println!("ready in {starts} starts {how}: p50 {half} ms, p99 {most} ms, longest {all} ms");
        slowest = slowest.max(at(99));
    }
    let (mut server, _) = start(folder.path(), &file)?;
    std::thread::sleep(Duration::from_secs(number("BENCH_IDLE", 5) as u64));
    println!("memory when idle: {}", resident(&server)?);
    stop(&mut server, false)?;
    judge(slowest)
}

fn judge(p99: Duration) -> Result<()> {
    let (p99_ms, goal_ms) = (p99.as_millis(), GOAL.as_millis());
    println!("p99 {p99_ms} ms, and the goal is under {goal_ms} ms");
    if p99 < GOAL { Ok(()) } else { Err(format!("the p99 of {p99_ms} ms is not under {goal_ms} ms").into()) }
}

fn number(name: &str, default: i64) -> i64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn settings(file: &Path) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("DATABASE_URL".to_owned(), format!("sqlite:{}", file.display())),
        ("STRIPE_SECRET_KEY".to_owned(), "sk_test_sandbox".to_owned()),
        ("STRIPE_WEBHOOK_SECRET".to_owned(), "whsec_bench".to_owned()),
        // Nobody listens there: readiness must not wait for Stripe.
        ("STRIPE_API_BASE".to_owned(), "http://127.0.0.1:9".to_owned()),
        ("OPENTAB_LOG".to_owned(), "error".to_owned()),
    ])
}

async fn schema(file: &Path) -> Result<()> {
    let (app, _lock) = open::for_a_server(Config::from_sources(settings(file), "")?).await?;
    app.store.db.close().await;
    Ok(())
}

/// A history as a year of it would look: usage, its daily totals, and the webhook events of its invoices.
fn fill(file: &Path, events: i64) -> Result<()> {
    let mut db = Connection::open(file)?;
    let tx = db.transaction()?;
    tx.execute("insert into meter values (1, 'ot_mtr_1', 'calls', 'Calls', 'sum', 0, '', 0)", [])?;
    let mut customer = tx.prepare(
        "insert into customer (no, id, external_id, name, currency, time_zone, anchor_day, collection_method, days_until_due, created_at, updated_at)
         values (?1, ?2, ?3, 'Bench', 'usd', 'UTC', 1, 'charge_automatically', 30, 0, 0)",
    )?;
    for no in 1..=CUSTOMERS {
        customer.execute((no, format!("ot_cus_{no:026}"), format!("bench-{no}")))?;
    }
    drop(customer);
    let mut event = tx.prepare("insert into usage_event values (?1, ?2, 1, 1, null, ?3, ?3)")?;
    for no in 0..events {
        event.execute((1 + no % CUSTOMERS, format!("{no:036x}"), no * 1_000))?;
    }
    drop(event);
    let mut total = tx.prepare(
        "insert into usage_total (customer_no, day, meter_no, quantity, events) values (?1, ?2, 1, ?3, ?3)",
    )?;
    for day in 0..=events / EVENTS_A_DAY {
        let name = format!("2026-{:02}-{:02}", 1 + day / 28 % 12, 1 + day % 28);
        for no in 1..=CUSTOMERS {
            total.execute((no, &name, EVENTS_A_DAY / CUSTOMERS))?;
        }
    }
    drop(total);
    let mut heard = tx.prepare(
        "insert into stripe_event (id, kind, object_id, livemode, created_at, received_at, payload, state)
         values (?1, 'invoice.updated', ?2, 0, ?3, ?3, ?4, 'handled')",
    )?;
    let payload = format!("{{\"padding\":\"{}\"}}", "x".repeat(2_000));
    for no in 0..events / 100 {
        heard.execute((format!("evt_{no}"), format!("in_{}", no % CUSTOMERS), no, &payload))?;
    }
    drop(heard);
    Ok(tx.commit()?)
}

/// Starts the binary, and answers when `/readyz` does with 200.
fn start(folder: &Path, file: &Path) -> Result<(Child, Duration)> {
    let binary = std::env::var("BENCH_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_opentab").to_owned());
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new(binary);
    command.current_dir(folder).envs(settings(file)).env("OPENTAB_LISTEN", address.to_string());
    let began = Instant::now();
    let mut server = command.arg("serve").stdout(Stdio::null()).spawn()?;
    while !ready(address) {
        if let Some(status) = server.try_wait()? {
            return Err(format!("the server ended: {status}").into());
        }
        if began.elapsed() > Duration::from_secs(60) {
            server.kill()?;
            return Err("the server is not ready after a minute".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((server, began.elapsed()))
}

fn ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let request = "GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}

fn stop(server: &mut Child, kill: bool) -> Result<()> {
    if kill {
        server.kill()?;
    } else {
        Command::new("kill").arg(server.id().to_string()).status()?;
    }
    server.wait()?;
    Ok(())
}

fn resident(server: &Child) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line.map_or_else(|| "unknown".to_owned(), |line| line["VmRSS:".len()..].trim().to_owned()))
}
