//! Health: whether the process is alive, whether it is ready to work, and what it has counted.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::kind;
use super::problem::Problem;
use crate::app::App;
use crate::store::Waiting;
use crate::workflows::{drift, silence};

/// Whoever asks for readiness has a deadline of their own, as a rule of a few seconds.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);
/// A due job that has waited longer than this says that nobody works.
const LONGEST_WAIT_MS: i64 = 600_000;
/// The text form that every Prometheus, and whoever speaks its language, reads.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether there is work that the service can do, and what is wrong.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Readiness {
    status: Status,
    /// Everything that somebody should look at; empty where all is well.
    reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// All is well.
    Ready,
    /// Usage is taken and pages are shown, but something waits.
    Degraded,
    /// Nothing can be taken or shown.
    Unready,
}

/// One thing that is wrong. It names nobody: anybody may ask.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Reason {
    /// For programs, such as `stripe_unauthorized`.
    code: &'static str,
    /// For people, with what to do.
    detail: String,
}

/// Is the process alive?
///
/// Answers as long as the process can answer anything; it asks neither the database nor Stripe.
#[utoipa::path(get, path = "/healthz", tag = "Health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// Is the service ready to work?
///
/// 503 where the database does not answer, or takes no writes. `degraded` says that usage is taken, but that Stripe or a human is needed.
#[utoipa::path(get, path = "/readyz", tag = "Health", responses(
    (status = 200, description = "Ready, or degraded", body = Readiness),
    (status = 503, description = "The database does not answer, or takes no writes", body = Readiness)))]
pub(crate) async fn ready(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    let waiting = waiting(&app).await;
    // A database that does not even answer is not asked to write.
    let takes_writes =
        waiting.is_some() && app.store.takes_writes(&app.probe, app.clock.now_ms(), DATABASE_TIMEOUT).await;
    let readiness = judge(waiting.as_ref(), takes_writes);
    let status = match readiness.status {
        Status::Ready | Status::Degraded => StatusCode::OK,
        Status::Unready => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness))
}

/// What has been counted
///
/// For Prometheus. Counters are this process's own and start at nothing; gauges show the whole database.
#[utoipa::path(get, path = "/metrics", tag = "Health", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(
    State(app): State<App>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let waiting = waiting(&app).await;
    if waiting.is_some() {
        // What cannot be read keeps what it last showed.
        _ = timeout(DATABASE_TIMEOUT, watched(&app)).await;
    }
    let unwritten = |_| Problem::new(&kind::INTERNAL_ERROR, "The metrics could not be written.");
    let text = app.metrics.text(waiting.as_ref()).map_err(unwritten)?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text))
}

/// What workflows have kept for the metrics.
async fn watched(app: &App) {
    if let Ok(Some(last)) = drift::last(app).await {
        let value = last.value.iter().map(|(currency, value)| (currency.as_str(), value.proven, value.all));
        app.metrics.reconciled(last.at, last.differences, value);
    }
    if let Ok(Some(silent)) = silence::silent_ms(app).await {
        app.metrics.stripe_silence(silent);
    }
}

/// None where the database does not answer, or not in time.
async fn waiting(app: &App) -> Option<Waiting> {
    let read = timeout(DATABASE_TIMEOUT, app.store.waiting(app.clock.now_ms())).await;
    match read {
        Ok(Ok(waiting)) => return Some(waiting),
        Ok(Err(error)) => tracing::error!(%error, "The database failed: {error}"),
        Err(_) => tracing::error!("The database did not answer within {} s", DATABASE_TIMEOUT.as_secs()),
    }
    None
}

fn judge(waiting: Option<&Waiting>, takes_writes: bool) -> Readiness {
    let unready = |code, detail: &str| {
        let reasons = vec![Reason { code, detail: detail.to_owned() }];
        Readiness { status: Status::Unready, reasons }
    };
    let Some(waiting) = waiting else {
        return unready("database_unavailable", "The database does not answer. No usage is taken.");
    };
    if !takes_writes {
        let detail = "The database takes no writes, so no usage is taken. Is the disk full, or read-only, or does another program lock the database? The log says why.";
        return unready("database_takes_no_writes", detail);
    }
    let reasons = reasons(waiting);
    Readiness { status: if reasons.is_empty() { Status::Ready } else { Status::Degraded }, reasons }
}

fn reasons(waiting: &Waiting) -> Vec<Reason> {
    let minutes = waiting.oldest_due_job_ms / 60_000;
    let all = [
        (
            waiting.jobs_unauthorized > 0,
            "stripe_unauthorized",
            "Stripe does not accept STRIPE_SECRET_KEY. Set a valid key and restart.".to_owned(),
        ),
        (
            waiting.jobs_unanswered > 0,
            "stripe_unavailable",
            "Stripe did not answer lately. Drafts follow as soon as it does.".to_owned(),
        ),
        (
            waiting.stripe_silent > 0,
            "stripe_silent",
            "No webhook has come for longer than usual. Check the endpoint in Stripe's dashboard; its events are asked for meanwhile.".to_owned(),
        ),
        (
            waiting.oldest_due_job_ms > LONGEST_WAIT_MS,
            "jobs_late",
            format!("The oldest due job has waited for {minutes} minutes."),
        ),
        (
            waiting.jobs_failed > 0,
            "jobs_failed",
            format!("{} jobs wait for a human: `opentab jobs list`.", waiting.jobs_failed),
        ),
        (
            waiting.incidents_open > 0,
            "incidents_open",
            format!(
                "{} incidents are open: `opentab incidents list`, and `resolve` what is seen to.",
                waiting.incidents_open
            ),
        ),
    ];
    let so = all.into_iter().filter(|(is_so, ..)| *is_so);
    so.map(|(_, code, detail)| Reason { code, detail }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_does_not_answer_is_not_ready() {
        assert_eq!(judge(None, false).status, Status::Unready);
        assert_eq!(judge(Some(&Waiting::default()), false).reasons[0].code, "database_takes_no_writes");
    }

    #[test]
    fn what_needs_a_human_or_stripe_is_named_and_usage_is_still_taken() {
        assert_eq!(judge(Some(&Waiting::default()), true).status, Status::Ready);
        let codes = |waiting: Waiting| {
            let readiness = judge(Some(&waiting), true);
            assert_eq!(readiness.status, Status::Degraded);
            readiness.reasons.iter().map(|reason| reason.code).collect::<Vec<_>>()
        };
        let all_well = Waiting::default();
        assert_eq!(codes(Waiting { jobs_unauthorized: 1, ..all_well }), ["stripe_unauthorized"]);
        assert_eq!(codes(Waiting { jobs_unanswered: 1, ..all_well }), ["stripe_unavailable"]);
        assert_eq!(codes(Waiting { stripe_silent: 1, ..all_well }), ["stripe_silent"]);
        assert_eq!(codes(Waiting { oldest_due_job_ms: LONGEST_WAIT_MS + 1, ..all_well }), ["jobs_late"]);
        assert_eq!(
            codes(Waiting { incidents_open: 2, jobs_failed: 1, ..all_well }),
            ["jobs_failed", "incidents_open"]
        );
    }
}
