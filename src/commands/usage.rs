//! Usage import: stream a file of usage events in, and say what became of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;

use super::open;
use crate::commands::out::say;
use crate::config::Config;
use crate::workflows::ingest::{Ingest, IngestError, Outcome};
use opentab_input::usage_event::{NewEvent, Rejection};
use opentab_input::usage_file::{Format, each_event};

/// Events in one transaction.
const BATCH: usize = 1_000;
/// Faults that are kept to be shown; all are counted.
const MOST_SHOWN: usize = 100;

/// A line whose event was not counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Counted from 1, the header among them.
    pub line: u64,
    /// The slug that the API gives, or `event-conflict`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// What became of a file's events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Stored and counted.
    pub accepted: u64,
    /// How many of them belong to a billing cycle that has ended.
    pub late: u64,
    /// Stored before.
    pub duplicate: u64,
    /// Stored before with other content.
    pub conflict: u64,
    /// Not stored.
    pub rejected: u64,
    /// The first hundred that were rejected or in conflict.
    pub faults: Vec<Fault>,
}

impl Summary {
    /// 0 where every event counts, now or before; 1 where some do not.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::from(self.conflict + self.rejected > 0)
    }

    fn fault(&mut self, line: u64, code: &'static str, detail: String) {
        match code {
            "event-conflict" => self.conflict += 1,
            _ => self.rejected += 1,
        }
        if self.faults.len() < MOST_SHOWN {
            self.faults.push(Fault { line, code, detail });
        }
    }

    fn add(&mut self, line: u64, outcome: Outcome) {
        match outcome {
            Outcome::Accepted { late } => {
                self.accepted += 1;
                self.late += u64::from(late);
            }
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Conflict => {
                let detail = "another event with this id was stored before, and stands";
                self.fault(line, "event-conflict", detail.to_owned());
            }
            Outcome::Rejected(Rejection { code, detail }) => self.fault(line, code, detail),
        }
    }

    fn total(&self) -> u64 {
        self.accepted + self.duplicate + self.conflict + self.rejected
    }
}

/// What can be done with usage.
#[derive(Debug, Subcommand)]
pub enum UsageCommand {
    /// Import usage events from a CSV or JSON lines file. Importing it again counts nothing twice
    Import(ImportArgs),
}

/// Import usage events from a CSV or JSON lines file; importing a file again counts no event again
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// FILE.csv, with a header line of id,customer,meter,quantity,timestamp,value,correction; FILE.jsonl, with the
    /// API's events; or - for standard input
    file: String,
    /// csv or jsonl, where the file's name does not say it
    #[arg(long)]
    format: Option<Format>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Imports straight into the database, beside a running server or without one. 0: every event counts, now or before;
/// 1: some do not. An error means that it could not run to the end: what was imported until then stays.
pub async fn usage(config: Config, command: UsageCommand) -> anyhow::Result<ExitCode> {
    let UsageCommand::Import(ImportArgs { file, format, json }) = command;
    let app = open::for_a_command(config).await?;
    let summary = import_file(&app.ingest, &file, format).await?;
    print(&summary, json)?;
    Ok(ExitCode::from(summary.exit_code()))
}

async fn import_file(ingest: &Ingest, file: &str, format: Option<Format>) -> anyhow::Result<Summary> {
    let format = format.or_else(|| format_of(file)).unwrap_or(Format::Jsonl);
    if file == "-" {
        return import(ingest, Box::new(io::stdin()), format, &progress(None)).await;
    }
    let input = File::open(file).with_context(|| format!("cannot open {file}"))?;
    let size = input.metadata().ok().map(|metadata| metadata.len());
    import(ingest, Box::new(input), format, &progress(size)).await
}

fn format_of(file: &str) -> Option<Format> {
    Path::new(file).extension()?.to_str()?.to_ascii_lowercase().parse().ok()
}

/// On a terminal only; on standard error, so that the summary can be piped.
fn progress(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {percent}% {msg}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {msg}, {elapsed}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn print(summary: &Summary, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        say!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    for Fault { line, code, detail } in &summary.faults {
        eprintln!("line {line}: {code}: {detail}");
    }
    let hidden = summary.conflict + summary.rejected - summary.faults.len() as u64;
    if hidden > 0 {
        eprintln!("… and {hidden} more");
    }
    say!(
        "{} accepted ({} late), {} duplicate, {} conflict, {} rejected",
        summary.accepted,
        summary.late,
        summary.duplicate,
        summary.conflict,
        summary.rejected
    );
    Ok(())
}

/// Imports events in their order. Reading runs ahead of storing by a few batches and no more, however long the input.
pub async fn import(
    ingest: &Ingest,
    input: Box<dyn Read + Send>,
    format: Format,
    bar: &ProgressBar,
) -> anyhow::Result<Summary> {
    let (batches, mut ready) = mpsc::channel::<Batch>(2);
    let bytes = Arc::new(AtomicU64::new(0));
    let input = Counted { input, bytes: bytes.clone() };
    let reading = tokio::task::spawn_blocking(move || read(BufReader::new(input), format, &batches));
    let mut summary = Summary::default();
    while let Some(batch) = ready.recv().await {
        store(ingest, batch, &mut summary).await.with_context(|| {
            format!("stopped after {} events; importing the file again is safe", summary.total())
        })?;
        bar.set_position(bytes.load(Ordering::Relaxed));
        bar.set_message(rate(&summary, bar));
    }
    reading.await??;
    bar.finish_and_clear();
    Ok(summary)
}

fn rate(summary: &Summary, bar: &ProgressBar) -> String {
    let events = summary.total();
    let seconds = bar.elapsed().as_secs().max(1);
    format!("{events} events, {}/s", events / seconds)
}

async fn store(ingest: &Ingest, batch: Batch, summary: &mut Summary) -> Result<(), IngestError> {
    let (lines, events): (Vec<u64>, Vec<NewEvent>) = batch.events.into_iter().unzip();
    let outcomes = ingest.ingest(&events).await?;
    for (line, why) in batch.faults {
        summary.fault(line, why.code, why.detail);
    }
    for (line, outcome) in lines.into_iter().zip(outcomes) {
        summary.add(line, outcome);
    }
    Ok(())
}

/// Counts the bytes that were read, for the progress bar.
struct Counted {
    input: Box<dyn Read + Send>,
    bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[derive(Default)]
struct Batch {
    events: Vec<(u64, NewEvent<'static>)>,
    faults: Vec<(u64, Rejection)>,
}

/// Fills batches and hands them on; stops early where nobody takes them any more.
struct Filler<'a> {
    batch: Batch,
    batches: &'a mpsc::Sender<Batch>,
}

impl Filler<'_> {
    fn push(&mut self, line: u64, event: Result<NewEvent<'static>, Rejection>) -> anyhow::Result<()> {
        match event {
            Ok(event) => self.batch.events.push((line, event)),
            Err(why) => self.batch.faults.push((line, why)),
        }
        if self.batch.events.len() + self.batch.faults.len() < BATCH { Ok(()) } else { self.hand_on() }
    }

    fn hand_on(&mut self) -> anyhow::Result<()> {
        self.batches.blocking_send(std::mem::take(&mut self.batch)).context("importing has stopped")
    }
}

fn read(input: impl BufRead, format: Format, batches: &mpsc::Sender<Batch>) -> anyhow::Result<()> {
    let mut filler = Filler { batch: Batch::default(), batches };
    each_event(input, format, &mut |line, event| filler.push(line, event))?;
    filler.hand_on()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::{Db, Location, Store, both};

    async fn ada() -> Ingest {
        let db = Db::open(&Location::Memory).await.unwrap();
        db.migrate().await.unwrap();
        let customer = both(
            "insert into customer (id, external_id, name, currency, time_zone, anchor_day, collection_method,
                 days_until_due, created_at, updated_at)
             values ('ot_cus_a', 'ada', 'Ada', 'usd', 'UTC', 1, 'charge_automatically', 30, 0, 0)",
        );
        db.run(customer, ()).await.unwrap();
        let meter = both(
            "insert into meter (id, event_name, display_name, aggregation, decimals, created_at)
             values ('ot_mtr_t', 'tokens', 'Tokens', 'sum', 1, 0)",
        );
        db.run(meter, ()).await.unwrap();
        let clock = Clock::set_at("2026-11-21T12:00:00Z".parse().unwrap());
        Ingest::start(Store { db }, clock, Arc::default(), 1)
    }

    async fn import_text(ingest: &Ingest, format: Format, text: &str) -> anyhow::Result<Summary> {
        let input = Box::new(io::Cursor::new(text.to_owned().into_bytes()));
        import(ingest, input, format, &ProgressBar::hidden()).await
    }

    #[tokio::test]
    async fn a_file_imported_twice_counts_once() {
        let ingest = ada().await;
        let mut text = "\u{feff}customer,id,meter,quantity,timestamp\n".to_owned();
        for n in 0..2_500 {
            text += &format!("ada,e{n},tokens,1.5,2026-11-{:02}T00:00:00Z\n", n % 20 + 1);
        }
        let summary = import_text(&ingest, Format::Csv, &text).await.unwrap();
        assert_eq!((summary.accepted, summary.exit_code()), (2_500, 0));
        let again = import_text(&ingest, Format::Csv, &text).await.unwrap();
        assert_eq!((again.accepted, again.duplicate, again.exit_code()), (0, 2_500, 0));
    }

    #[tokio::test]
    async fn a_bad_line_is_named_by_its_number_and_the_others_count() {
        let ingest = ada().await;
        let text = "id,customer,meter,quantity,correction\n\
                    a,ada,tokens,1,\n\
                    b,ada,nonsense,1,\n\
                    c,ada,tokens,-1,true\n\
                    d,ada,tokens\n\
                    a,ada,tokens,2,\n\
                    \"e\n\",ada,tokens,2,maybe\n\
                    f,ada,tokens,2,false\n";
        let summary = import_text(&ingest, Format::Csv, text).await.unwrap();
        let mut faults: Vec<_> = summary.faults.iter().map(|fault| (fault.line, fault.code)).collect();
        faults.sort_unstable();
        let expected =
            [(3, "unknown-meter"), (5, "validation-failed"), (6, "event-conflict"), (7, "validation-failed")];
        assert_eq!(faults, expected);
        assert_eq!((summary.accepted, summary.conflict, summary.rejected, summary.exit_code()), (3, 1, 3, 1));
    }

    #[tokio::test]
    async fn json_lines_are_the_events_of_the_api() {
        let ingest = ada().await;
        let text = "{\"id\":\"a\",\"customer\":\"ada\",\"meter\":\"tokens\",\"quantity\":\"0.1\"}\n\
                    \n\
                    {\"id\":\"b\",\"customer\":\"ada\",\n\
                    {\"id\":\"c\",\"customer\":\"ada\",\"meter\":\"tokens\",\"quantity\":1}";
        let summary = import_text(&ingest, Format::Jsonl, text).await.unwrap();
        assert_eq!((summary.accepted, summary.rejected), (2, 1));
        assert_eq!(summary.faults[0].line, 3);
    }

    #[tokio::test]
    async fn a_misspelt_column_imports_nothing() {
        let ingest = ada().await;
        for header in ["id,customer,meter,quantiy", "id,customer", "id,customer,meter,id"] {
            let text = format!("{header}\na,ada,tokens,1\n");
            assert!(import_text(&ingest, Format::Csv, &text).await.is_err(), "{header}");
        }
    }

    #[tokio::test]
    async fn a_thousand_faults_are_counted_and_a_hundred_shown() {
        let ingest = ada().await;
        let summary = import_text(&ingest, Format::Jsonl, &"{}\n".repeat(1_000)).await.unwrap();
        assert_eq!((summary.rejected, summary.faults.len()), (1_000, MOST_SHOWN));
    }
}
