//! Work off: what a command asked for is done while it waits, by workers of its own and, beside a server, by the server's.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::jobs::work_only;
use crate::store::Job;
use crate::workflows::ask::settled;
use crate::workflows::reads;

/// What takes longer goes on by itself, where a server runs, or at the next command.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// What makes room for others comes back within this.
const SOON_MS: i64 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Lets workers do work of these kinds for as long as a command goes on, and of no other: what sends e-mails charges nobody.
pub(super) async fn with_workers<T>(
    app: &App,
    kinds: &'static [&'static str],
    command: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let stop = CancellationToken::new();
    let workers = tokio::spawn(work_only(app.clone(), kinds, stop.clone()));
    let done = command.await;
    stop.cancel();
    workers.await?;
    reads::record(app).await?;
    done
}

/// Waits until each of these jobs has had its run; answers them as they are then. With a progress bar where somebody
/// watches, over so many of `what`.
pub(super) async fn all_settled(app: &App, ids: &[String], what: &str) -> anyhow::Result<Vec<Job>> {
    let bar = bar(ids.len() as u64, what)?;
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        jobs.extend(settled(app, std::slice::from_ref(id), PATIENCE).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(jobs)
}

/// Waits until nothing of these kinds is due or under way. What is to be tried again later is left to later.
pub(super) async fn until_none_is_due(app: &App, kinds: &[&str], what: &str) -> anyhow::Result<()> {
    let mut most = 0;
    let bar = bar(0, what)?;
    loop {
        let mut left = 0;
        for kind in kinds {
            left += app.store.due_jobs(kind, app.clock.now_ms() + SOON_MS).await?;
        }
        most = left.max(most);
        bar.set_length(most.unsigned_abs());
        bar.set_position((most - left).unsigned_abs());
        if left == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn bar(length: u64, what: &str) -> anyhow::Result<ProgressBar> {
    let style = format!("{{bar:40}} {{pos}}/{{len}} {what}  {{per_sec}}  {{eta}} left");
    Ok(ProgressBar::new(length).with_style(ProgressStyle::with_template(&style)?))
}

/// Says of each job that did not go through why; answers how many there are.
pub(super) fn say_what_failed(jobs: &[Job]) -> usize {
    let failed: Vec<&Job> = jobs.iter().filter(|job| job.state != "done").collect();
    for job in &failed {
        eprintln!("{}: {}", job.subject, job.last_error.as_deref().unwrap_or("still running"));
    }
    failed.len()
}
