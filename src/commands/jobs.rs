//! `opentab jobs`: look at what waits for a human, and run it again.

use std::process::ExitCode;

use clap::Subcommand;

use super::open;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;

/// List jobs, and run a failed one again
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    List {
        /// queued, running, done or failed
        #[arg(long, default_value = "failed")]
        state: String,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
    },
    /// Run a job again that waits for a human
    Retry {
        /// ot_job_…
        id: String,
    },
}

/// Lists jobs, or queues a failed one again for the workers of a running server.
pub async fn jobs(config: Config, command: JobsCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        JobsCommand::List { state, limit } => {
            for job in app.store.jobs_in_state(&state, limit).await? {
                let at = from_ms(job.created_at).format("%Y-%m-%d %H:%M:%S");
                let error = job.last_error.as_deref().unwrap_or("");
                say!("{at}  {}  {} {}  tries {}  {error}", job.id, job.kind, job.subject, job.attempts);
            }
        }
        JobsCommand::Retry { id } => {
            if !app.store.revive_job(&id, app.clock.now_ms()).await? {
                anyhow::bail!("there is no job {id} that waits for a human; `opentab jobs list` shows them");
            }
            say!("{id} is queued; a running server takes it up at once.");
        }
    }
    Ok(ExitCode::SUCCESS)
}
