//! `opentab incidents`: look at what a human should see to, and close it.

use std::process::ExitCode;

use clap::Subcommand;

use super::open;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::{Incident, Page};
use crate::workflows::by::{By, ChangeError};
use crate::workflows::notice;

#[derive(Debug, Subcommand)]
pub enum IncidentsCommand {
    /// List open incidents, newest first
    List {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Close an incident that somebody has seen to; it opens anew where its cause is still there
    Resolve {
        /// ot_inc_…
        id: String,
    },
}

pub async fn incidents(config: Config, command: IncidentsCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        IncidentsCommand::List { limit, json } => {
            let page = Page { limit: limit.max(0), after: String::new(), before: String::new() };
            for incident in app.store.open_incidents(&page).await?.0 {
                say!("{}", if json { as_json(&incident) } else { as_text(&incident) });
            }
        }
        IncidentsCommand::Resolve { id } => match notice::resolve(&app, &id, &By::operator()).await {
            Ok(incident) => say!("{} is closed: {}", incident.id, incident.message),
            Err(ChangeError::Gone) => {
                anyhow::bail!("there is no incident {id}; `opentab incidents list` shows them")
            }
            Err(error) => return Err(error.into()),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(incident: &Incident) -> String {
    format!(
        "{}  {}  {} {}  seen {}  {}",
        incident.last_seen_at.format("%Y-%m-%d %H:%M:%S"),
        incident.id,
        incident.kind,
        incident.subject,
        incident.seen,
        incident.message,
    )
}

fn as_json(incident: &Incident) -> String {
    serde_json::json!({
        "id": incident.id,
        "kind": incident.kind,
        "subject": incident.subject,
        "message": incident.message,
        "seen": incident.seen,
        "opened_at": incident.opened_at,
        "last_seen_at": incident.last_seen_at,
    })
    .to_string()
}
