//! `opentab doctor`: is everything as it has to be, and what to do where it is not.

use std::process::ExitCode;

use clap::Args;
use stripe_client_core::StripeRequest;

use super::open;
use crate::app::App;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::{Collection, Config};
use crate::store::Db;
use crate::stripe::{StripeError, account};
use crate::workflows::drift;
use crate::workflows::reads::{self, Allowance};

/// Webhooks signed further away than this are refused.
const SKEW_SECONDS: i64 = 300;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found, and what to do about it.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Warning,
    Wrong,
}

fn fine(name: &'static str, text: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Fine, text: text.into() }
}

fn warning(name: &'static str, text: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Warning, text: text.into() }
}

fn wrong(name: &'static str, text: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Wrong, text: text.into() }
}

/// 0: nothing is wrong. 1: something is, and is shown.
pub(super) async fn doctor(config: Config, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = vec![key(&config), webhook_secret(&config), public_url(&config), mail(&config)];
    match open::for_a_command(config).await {
        Err(error) => checks.push(wrong("database", format!("{error:#}"))),
        Ok(app) => {
            checks.push(durability(&app).await);
            checks.push(migrations(&app).await);
            checks.extend(webhooks(&app).await);
            checks.extend(webhook_mode(&app).await);
            checks.extend(stripe(&app).await);
            checks.extend(backlog(&app).await);
            checks.push(compared(&app).await);
            checks.push(reads(&app).await);
        }
    }
    show(&checks, args.json);
    let healthy = checks.iter().all(|check| check.verdict != Verdict::Wrong);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn show(checks: &[Check], json: bool) {
    for check in checks {
        let (mark, word) = match check.verdict {
            Verdict::Fine => ("ok  ", "ok"),
            Verdict::Warning => ("warn", "warning"),
            Verdict::Wrong => ("FAIL", "wrong"),
        };
        if json {
            say!("{}", serde_json::json!({ "check": check.name, "verdict": word, "text": check.text }))
        } else {
            say!("{mark}  {:<16} {}", check.name, check.text)
        }
    }
}

fn key(config: &Config) -> Check {
    match &config.stripe_secret_key {
        None => wrong("stripe key", "STRIPE_SECRET_KEY is not set, so `opentab serve` will not start"),
        Some(key)
            if !["sk_test_", "sk_live_", "rk_test_", "rk_live_"]
                .iter()
                .any(|start| key.0.starts_with(start)) =>
        {
            wrong(
                "stripe key",
                "STRIPE_SECRET_KEY is not a secret key: those begin with sk_ or rk_, then test_ or live_",
            )
        }
        Some(_) if config.livemode() => fine("stripe key", "a live key: real money"),
        Some(_) => fine("stripe key", "a test key: nobody is charged"),
    }
}

fn webhook_secret(config: &Config) -> Check {
    match &config.stripe_webhook_secrets {
        None => warning(
            "webhook secret",
            "STRIPE_WEBHOOK_SECRET is not set: what happens at Stripe is seen only every ten minutes",
        ),
        Some(secrets) => {
            fine("webhook secret", format!("{} set; its mode shows with the first webhook", secrets.count()))
        }
    }
}

/// A secret alone brings no webhooks: Stripe has to have the endpoint.
async fn webhooks(app: &App) -> Option<Check> {
    app.config.stripe_webhook_secrets.as_ref()?;
    match app.store.last_webhook_at().await {
        Err(error) => Some(wrong("webhooks", error.to_string())),
        Ok(Some(last)) => Some(fine("webhooks", format!("the last new one came {}", from_ms(last)))),
        Ok(None) => Some(warning(
            "webhooks",
            format!(
                "no webhook has come yet: make an endpoint for {}/webhooks/stripe in Stripe's dashboard",
                app.config.public_url
            ),
        )),
    }
}

/// A signing secret does not say its mode; the events that came with it do.
async fn webhook_mode(app: &App) -> Option<Check> {
    let event = match app.store.stripe_events(None, 1).await {
        Ok(events) => events.into_iter().next()?,
        Err(error) => return Some(wrong("webhook mode", error.to_string())),
    };
    Some(if event.livemode == app.config.livemode() {
        fine("webhook mode", "the newest webhook is of the key's mode")
    } else {
        wrong(
            "webhook mode",
            "the newest webhook is of the other mode than STRIPE_SECRET_KEY: STRIPE_WEBHOOK_SECRET belongs to another endpoint",
        )
    })
}

fn public_url(config: &Config) -> Check {
    let local = ["127.0.0.1", "localhost", "0.0.0.0"].iter().any(|host| config.public_url.contains(host));
    match (local, config.livemode()) {
        (true, true) => warning(
            "public url",
            format!(
                "{}: neither Stripe nor customers can reach it; set OPENTAB_PUBLIC_URL",
                config.public_url
            ),
        ),
        _ => fine("public url", config.public_url.clone()),
    }
}

fn mail(config: &Config) -> Check {
    match (&config.mail.server, &config.mail.operator) {
        (None, _) if config.collection == Collection::Opentab => warning(
            "e-mail",
            "off: OPENTAB_SMTP_URL is not set, and Opentab collects: no customer hears that a payment has failed",
        ),
        (None, _) => fine("e-mail", "off: OPENTAB_SMTP_URL is not set"),
        (Some(server), None) => fine(
            "e-mail",
            format!("by {}; OPENTAB_OPERATOR_EMAIL is not set: no incident is told by e-mail", server.host),
        ),
        (Some(server), Some(_)) => {
            fine("e-mail", format!("by {}, to customers and to the operator", server.host))
        }
    }
}

/// What was answered 2xx has to survive power loss.
async fn durability(app: &App) -> Check {
    match &app.store.db {
        Db::Lite { .. } => match app.store.db.durability().await {
            Ok((journal, 2)) if journal == "wal" => fine("durability", "SQLite: WAL, synchronous=FULL"),
            Ok((journal, level)) => wrong(
                "durability",
                format!("SQLite: journal {journal}, synchronous {level}; expected wal and 2 (FULL)"),
            ),
            Err(error) => wrong("durability", error.to_string()),
        },
        Db::Pg(_) => {
            let setting = |name| app.store.db.postgres_setting(name);
            match (setting("fsync").await, setting("synchronous_commit").await) {
                (Ok(fsync), Ok(commit)) if fsync == "on" && commit != "off" => {
                    fine("durability", format!("PostgreSQL: fsync on, synchronous_commit {commit}"))
                }
                (Ok(fsync), Ok(commit)) => wrong(
                    "durability",
                    format!(
                        "PostgreSQL: fsync {fsync}, synchronous_commit {commit}: a power cut would lose acknowledged usage"
                    ),
                ),
                (Err(error), _) | (_, Err(error)) => wrong("durability", error.to_string()),
            }
        }
    }
}

async fn migrations(app: &App) -> Check {
    match app.store.db.pending_migrations().await {
        Ok(0) => fine("schema", format!("{}, up to this version", app.store.db.engine())),
        Ok(count) => wrong(
            "schema",
            format!("{count} migrations are missing; start `opentab serve` of this version once"),
        ),
        Err(error) => wrong("schema", error.to_string()),
    }
}

async fn stripe(app: &App) -> Vec<Check> {
    if app.config.stripe_secret_key.is_none() {
        return Vec::new();
    }
    let began = app.clock.now();
    match app.stripe.ask_time(account().build()).await {
        Ok(Some(their_time)) => {
            let skew = (their_time - began.timestamp()).abs();
            let text = format!("{skew} s from Stripe's");
            let clock = if skew > SKEW_SECONDS {
                wrong("clock", text + ": webhooks will be refused as too old; set this machine's clock")
            } else {
                fine("clock", text)
            };
            vec![fine("stripe", format!("{} answers", app.config.stripe_api_base)), clock]
        }
        Ok(None) => vec![fine("stripe", format!("{} answers", app.config.stripe_api_base))],
        Err(StripeError::Unauthorized(refusal)) => {
            vec![wrong("stripe", format!("the key is not accepted: {refusal}"))]
        }
        Err(error) => vec![wrong("stripe", error.to_string())],
    }
}

async fn backlog(app: &App) -> Vec<Check> {
    let now = app.clock.now_ms();
    let mut checks = Vec::new();
    match app.store.backlog(now).await {
        Err(error) => checks.push(wrong("jobs", error.to_string())),
        Ok(backlog) => {
            let waits = format!(
                "{} due, the oldest for {} s; {} running",
                backlog.due,
                backlog.oldest_ms / 1_000,
                backlog.running
            );
            checks.push(if backlog.oldest_ms > 600_000 {
                warning("jobs", waits)
            } else {
                fine("jobs", waits)
            });
            if backlog.failed > 0 {
                checks.push(warning(
                    "failed jobs",
                    format!("{} wait for a human; see `opentab jobs list`", backlog.failed),
                ));
            }
        }
    }
    match app.store.count_incidents().await {
        Err(error) => checks.push(wrong("incidents", error.to_string())),
        Ok(0) => checks.push(fine("incidents", "none open")),
        Ok(count) => checks.push(warning("incidents", format!("{count} open; see `opentab incidents list`"))),
    }
    checks
}

/// When ledger and drafts were last held against Stripe, and what came of it.
async fn compared(app: &App) -> Check {
    match drift::last(app).await {
        Err(error) => wrong("reconcile", error.to_string()),
        Ok(None) => fine("reconcile", "not compared with Stripe yet; a server does it every day"),
        Ok(Some(last)) => {
            let at = from_ms(last.at).format("%Y-%m-%d %H:%M:%S");
            match last.differences {
                0 => fine("reconcile", format!("equal to Stripe at {at}")),
                count => {
                    warning("reconcile", format!("{count} differences at {at}; see `opentab reconcile`"))
                }
            }
        }
    }
}

/// Stripe counts every read against the account.
async fn reads(app: &App) -> Check {
    match reads::allowance(app).await {
        Err(error) => wrong("stripe reads", error.to_string()),
        Ok(Allowance { used, allowed }) => {
            let text = format!("{used} in 30 days, {allowed} are allowed");
            if used >= allowed { warning("stripe reads", text) } else { fine("stripe reads", text) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn a_secret_without_any_webhook_is_a_warning() {
        _ = rustls::crypto::ring::default_provider().install_default();
        let settings = [("DATABASE_URL", "sqlite::memory:"), ("STRIPE_WEBHOOK_SECRET", "whsec_test")];
        let settings: BTreeMap<_, _> = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let app = open::for_a_command(Config::from_sources(settings, "").unwrap()).await.unwrap();
        let check = webhooks(&app).await.unwrap();
        assert!(check.verdict == Verdict::Warning, "{}", check.text);
        assert!(check.text.starts_with("no webhook has come yet"), "{}", check.text);
    }
}
