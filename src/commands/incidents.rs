//! `opentab incidents`: look at what a human should see to, and close it.

use std::process::ExitCode;

use clap::Subcommand;

use super::open;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::Page;
use crate::workflows::by::{By, ChangeError};
use crate::workflows::console::needs::{self, Listed, Way};
use crate::workflows::{notice, remedy};

#[derive(Debug, Subcommand)]
pub(super) enum IncidentsCommand {
    /// List what needs a human: open incidents, and what waits without one
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

pub(super) async fn incidents(config: Config, command: IncidentsCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        IncidentsCommand::List { limit, json } => {
            let page = Page { limit: limit.max(0), after: String::new(), before: String::new() };
            for listed in needs::listed(&app, &page).await?.0 {
                say!("{}", if json { as_json(&listed) } else { as_text(&listed) });
                let commands = listed.ways.into_iter().filter_map(|way| way.command);
                commands.filter(|_| !json).for_each(|command| say!("    {command}"));
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

fn as_text(Listed { incident, .. }: &Listed) -> String {
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

fn way(way: &Way) -> serde_json::Value {
    serde_json::json!({ "action": way.action.as_str(), "does": way.action.does(), "command": way.command })
}

fn as_json(Listed { object, incident, ways }: &Listed) -> String {
    serde_json::json!({
        "object": object,
        "id": incident.id,
        "kind": incident.kind,
        "subject": incident.subject,
        "message": incident.message,
        "seen": incident.seen,
        "opened_at": incident.opened_at,
        "last_seen_at": incident.last_seen_at,
        "advice": remedy::remedy(&incident.kind).map(|remedy| remedy.advice),
        "actions": ways.iter().map(way).collect::<Vec<_>>(),
    })
    .to_string()
}
