//! Serve: the API, the workers and the schedule, until somebody says stop.

use std::process::ExitCode;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::open;
use crate::app::App;
use crate::config::Config;
use crate::http;
use crate::jobs::{run_schedule, work};
use crate::workflows::ask::ask_for_due;
use crate::workflows::charge;
use crate::workflows::reads;

/// Runs the service until SIGTERM or Ctrl-C, then finishes what is under way.
pub async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let (app, _lock) = open::for_a_server(config).await?;
    let address = app.config.listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mode = if app.config.livemode() { "live" } else { "test" };
    tracing::info!(address = %address, engine = app.store.db.engine(), mode,
        "Opentab serves {} in Stripe's {mode} mode, on {}", app.config.public_url, app.store.db.engine());
    if app.config.stripe_webhook_secrets.is_none() {
        tracing::warn!(
            "STRIPE_WEBHOOK_SECRET is not set: webhooks are refused, and Stripe's events are read every ten minutes instead"
        );
    }
    let stop = CancellationToken::new();
    let service = tokio::spawn(run(app.clone(), listener, stop.clone()));
    stop_signal().await?;
    tracing::info!("Stopping: finishing what is under way");
    stop.cancel();
    service.await??;
    app.ingest.drain().await;
    reads::record(&app).await?;
    app.store.db.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Serves on a listener until it is told to stop.
pub async fn run(app: App, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    // What a crash left behind goes on at once, not at the next tick.
    ask_for_due(&app).await?;
    charge::ask_for_due(&app, "").await?;
    let workers = tokio::spawn(work(app.clone(), stop.clone()));
    let schedule = tokio::spawn(run_schedule(app.clone(), stop.clone()));
    let stopped = stop.clone();
    http::serve::serve(listener, http::router(app.clone()), async move { stopped.cancelled().await }).await?;
    app.ingest.drain().await;
    schedule.await??;
    workers.await?;
    Ok(())
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
