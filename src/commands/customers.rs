//! `opentab customers`: bring a customer list in, and look at the lists that were brought.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::month::month;
use super::open;
use crate::app::App;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;
use crate::store::{CustomerImport, Page};
use crate::workflows::by::By;
use crate::workflows::imports::{self, ImportOptions, Upload, carry_on, report};
use opentab_input::customer_list::mapping;

/// What scripts may rely on.
const EXIT_CODES: &str = "Exit codes: 0: the list is in (or, with --dry-run, would be). 1: lines are at fault, and nothing \
                          was stored. 2: it could not run to the end; the same file again is safe.";

#[derive(Debug, Subcommand)]
pub(super) enum CustomersCommand {
    /// Create and update customers from a CSV file: all of it or nothing
    #[command(after_help = EXIT_CODES)]
    Import(ImportArgs),
    /// List customer lists that were brought, newest first
    Imports {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A CSV file with a header line, or - for standard input. Columns: external_id, name, email, currency, time_zone,
    /// anchor_day, collection_method, days_until_due, stripe_customer_id, locale, active_from, active_until, prices (ids or
    /// names, a|b), services_from, metadata.KEY
    file: String,
    /// Check and show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    /// The billing month that the list counts for, such as 2026-11; the running one where it is not given
    #[arg(long, value_parser = month)]
    month: Option<String>,
    /// What one of your columns is called here, such as "E-mail=email"; "Notes=" passes one over. May be repeated
    #[arg(long = "map", value_parser = mapping)]
    maps: Vec<(String, String)>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub(super) async fn customers(config: Config, command: CustomersCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        CustomersCommand::Import(args) => import(&app, args).await,
        CustomersCommand::Imports { limit, json } => {
            let page = Page { limit: limit.max(0), after: String::new(), before: String::new() };
            for import in app.store.customer_imports(&page).await?.0 {
                say!("{}", if json { as_json(&import) } else { as_text(&import) });
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn import(app: &App, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let (input, size): (Box<dyn AsyncRead + Unpin + Send>, _) = match args.file.as_str() {
        "-" => (Box::new(tokio::io::stdin()), None),
        file => {
            let input = File::open(file).await.with_context(|| format!("cannot open {file}"))?;
            let size = input.metadata().await.ok().map(|metadata| metadata.len());
            (Box::new(input), size)
        }
    };
    let options = ImportOptions {
        file_name: name_of(&args.file),
        dry_run: args.dry_run,
        keep: false,
        month: args.month,
        maps: args.maps,
    };
    let import = bring(app, input, size, options).await.context("the same file again is safe")?;
    print(&import, args.json);
    let whole = import.state != "refused" && import.error_count == 0;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The last part: where it lies on somebody's disk is nobody's business.
fn name_of(file: &str) -> String {
    let name = std::path::Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| file.to_owned())
}

/// Reads, checks and applies, with a bar on a terminal; on standard error, so that the summary can be piped.
async fn bring(
    app: &App,
    mut input: Box<dyn AsyncRead + Unpin + Send>,
    size: Option<u64>,
    options: ImportOptions,
) -> anyhow::Result<CustomerImport> {
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let mut upload = Upload::begin(app, options, &By::operator()).await?;
    let mut piece = vec![0; 256 * 1024];
    bar.set_style(ProgressStyle::with_template("reading  {bar:30} {bytes}  {msg}")?);
    loop {
        let read = input.read(&mut piece).await.context("the file cannot be read")?;
        if read == 0 || !upload.feed(&piece[..read]).await? {
            break;
        }
        bar.inc(read as u64);
        bar.set_message(format!("{} rows", upload.rows()));
    }
    bar.set_message("checking");
    let import = upload.check().await?;
    bar.finish_and_clear();
    if import.state != "applying" {
        return Ok(import);
    }
    let bar = ProgressBar::new(u64::try_from(import.row_count).unwrap_or(0));
    bar.set_style(ProgressStyle::with_template("applying {bar:30} {pos}/{len} rows  {per_sec}  {eta} left")?);
    let import =
        carry_on(app, &import.id, |applied| bar.set_position(u64::try_from(applied).unwrap_or(0))).await?;
    bar.finish_and_clear();
    Ok(import)
}

fn print(import: &CustomerImport, json: bool) {
    if json {
        return say!("{}", as_json(import));
    }
    let imports::Report { faults, changes, .. } = report(import);
    for fault in &faults {
        let column = fault.column.as_deref().map(|column| format!(" {column}:")).unwrap_or_default();
        eprintln!("line {}:{column} {}", fault.line, fault.detail);
    }
    if import.dry_run {
        for change in &changes {
            say!(
                "line {}: {} {} {}",
                change.line,
                change.outcome,
                change.external_id,
                change.fields.join(", ")
            );
        }
    }
    say!("{}", as_text(import));
}

fn as_text(import: &CustomerImport) -> String {
    format!(
        "{}  {}  {}{}  {} rows: {} created, {} updated, {} unchanged, {} errors  {}  by {}",
        from_ms(import.created_at).format("%Y-%m-%d %H:%M"),
        import.id,
        import.state,
        if import.dry_run { " (dry run)" } else { "" },
        import.row_count,
        import.created_count,
        import.updated_count,
        import.unchanged_count,
        import.error_count,
        import.file_name,
        import.actor,
    )
}

fn as_json(import: &CustomerImport) -> String {
    let report = report(import);
    serde_json::json!({
        "id": import.id, "file_name": import.file_name, "by": import.actor, "month": import.month,
        "dry_run": import.dry_run, "state": import.state, "rows": import.row_count,
        "created": import.created_count, "updated": import.updated_count, "unchanged": import.unchanged_count,
        "errors": import.error_count, "faults": report.faults, "changes": report.changes,
        "created_at": from_ms(import.created_at), "finished_at": import.finished_at.map(from_ms),
    })
    .to_string()
}
