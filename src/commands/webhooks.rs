//! `opentab webhooks`: look at Stripe's events, and react to one again.

use std::process::ExitCode;

use clap::Subcommand;

use super::open;
use crate::clock::{from_ms, prefix};
use crate::config::Config;
use crate::store::{NewJob, StripeEvent};
use crate::workflows::receive::REACT;

#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
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
    /// React to an event again; harmless, however often
    Replay {
        /// evt_…
        id: String,
    },
}

pub async fn webhooks(config: Config, command: WebhooksCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        WebhooksCommand::List { state, limit, json } => {
            for event in app.store.stripe_events(state.as_deref(), limit).await? {
                println!("{}", if json { as_json(&event) } else { as_text(&event) });
            }
        }
        WebhooksCommand::Replay { id } => {
            let Some(event) = app.store.stripe_event(&id).await? else {
                anyhow::bail!("there is no event {id}; `opentab webhooks list` shows them");
            };
            let now = app.clock.now_ms();
            let mut tx = app.store.db.begin().await?;
            tx.replay_stripe_event(&id).await?;
            let job = app.ids.new_id(prefix::JOB);
            let subject = event.object_id.as_deref().unwrap_or("");
            tx.enqueue(&NewJob { id: &job, kind: REACT, subject, run_at: now, deadline: now, now }).await?;
            tx.commit().await?;
            crate::jobs::run_due(&app).await?;
            match app.store.stripe_event(&id).await? {
                Some(event) => println!("{}", as_text(&event)),
                None => println!("{id} is gone"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
