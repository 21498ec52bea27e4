//! `opentab webhooks`: look at Stripe's events, and react to one again.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::open;
use super::work_off::{until_none_is_due, with_workers};
use crate::app::App;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;
use crate::jobs::run_one;
use crate::store::StripeEvent;
use crate::workflows::ask::{SYNC, settled};
use crate::workflows::poll::poll_events;
use crate::workflows::receive;

/// How long to wait for a server that was faster.
const PATIENCE: Duration = Duration::from_secs(10);
/// While others come in, so often at most.
const LOOKS: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum WebhooksCommand {
    /// List events, newest first
    List {
        /// pending, handled, ignored or quarantined
        #[arg(long)]
        state: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Ask Stripe for every event that never arrived, and react to it; for those who run no server
    Poll {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// React to an event again; harmless, however often
    Replay {
        /// evt_…
        id: String,
    },
}

pub(super) async fn webhooks(config: Config, command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        WebhooksCommand::List { state, limit, json } => {
            for event in app.store.stripe_events(state.as_deref(), limit).await? {
                say!("{}", if json { as_json(&event) } else { as_text(&event) });
            }
        }
        WebhooksCommand::Poll { json } => return poll(&app, json).await,
        WebhooksCommand::Replay { id } => replay(&app, &id).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until every event has been reacted to; answers how many have not. Beside a server others come in meanwhile.
async fn reacted(app: &App) -> anyhow::Result<i64> {
    let mut waiting = 0;
    for _ in 0..LOOKS {
        until_none_is_due(app, &[receive::REACT, SYNC], "events").await?;
        waiting = app.store.waiting(app.clock.now_ms()).await?.stripe_events_pending;
        if waiting == 0 {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(waiting)
}

/// 0: everything that was found has been reacted to. 1: something has not.
async fn poll(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    open::need_stripe_key(&app.config)?;
    let (found, waiting) = with_workers(app, &[receive::REACT, SYNC], async {
        let found = poll_events(app).await?;
        Ok((found, reacted(app).await?))
    })
    .await?;
    if json {
        say!("{}", serde_json::json!({ "found": found, "waiting": waiting }))
    } else {
        say!("{found} events had not arrived; {waiting} wait to be reacted to")
    }
    Ok(if waiting == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Reacts to one event and to nothing else: what else is due is the server's.
async fn replay(app: &App, id: &str) -> anyhow::Result<()> {
    let Some(event) = app.store.stripe_event(id).await? else {
        anyhow::bail!("there is no event {id}; `opentab webhooks list` shows them");
    };
    let Some(job) = receive::replay(app, &event).await? else {
        say!("{}", as_text(&event));
        return Ok(());
    };
    if app.config.stripe_secret_key.is_none() {
        // Without the key nobody knows which mode's events are ours.
        say!("{id} is queued; a running server reacts to it. STRIPE_SECRET_KEY is not set here.");
        return Ok(());
    }
    if !run_one(app, &job).await? {
        settled(app, &[job], PATIENCE).await?;
    }
    match app.store.stripe_event(id).await? {
        Some(event) => say!("{}", as_text(&event)),
        None => say!("{id} is gone"),
    }
    Ok(())
}

fn as_text(event: &StripeEvent) -> String {
    format!(
        "{}  {}  {:<28}  {:<12}  {}  {}",
        from_ms(event.received_at).format("%Y-%m-%d %H:%M:%S"),
        event.id,
        event.kind,
        event.state,
        event.object_id.as_deref().unwrap_or("-"),
        event.reason.as_deref().unwrap_or(""),
    )
}

fn as_json(event: &StripeEvent) -> String {
    serde_json::json!({
        "id": event.id,
        "type": event.kind,
        "state": event.state,
        "reason": event.reason,
        "object_id": event.object_id,
        "received_at": from_ms(event.received_at),
    })
    .to_string()
}
