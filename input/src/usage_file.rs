//! Usage file: reads the events of a CSV or JSON lines file, one after another in constant memory.

use std::borrow::Cow;
use std::io::BufRead;
use std::str::FromStr;

use anyhow::{Context, bail};

use crate::csv;
use crate::usage_event::{NewEvent, Rejection};

/// The columns of a CSV file, in any order; the first three are required.
const COLUMNS: [&str; 7] = ["id", "customer", "meter", "quantity", "timestamp", "value", "correction"];

/// How a file holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "csv" => Ok(Format::Csv),
            "jsonl" | "ndjson" => Ok(Format::Jsonl),
            _ => Err("must be csv or jsonl".to_owned()),
        }
    }
}

/// Takes an event, or why there is none, with its line.
type Take<'t> = &'t mut dyn FnMut(u64, Result<NewEvent<'static>, Rejection>) -> anyhow::Result<()>;

/// Reads a file's events in their order. An error means that the file as a whole cannot be read, or that nobody takes
/// events any more.
pub fn each_event(input: impl BufRead, format: Format, take: Take<'_>) -> anyhow::Result<()> {
    match format {
        Format::Csv => each_of_csv(input, take),
        Format::Jsonl => each_of_jsonl(input, take),
    }
}

fn each_of_jsonl(mut input: impl BufRead, take: Take<'_>) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(&text).trim_ascii();
        if !text.is_empty() {
            let event = serde_json::from_slice::<NewEvent>(text).map(NewEvent::into_owned);
            take(line, event.map_err(|error| Rejection::invalid(error.to_string())))?;
        }
    }
    Ok(())
}

fn each_of_csv(mut input: impl BufRead, take: Take<'_>) -> anyhow::Result<()> {
    let mut reader = csv::Reader::default();
    let mut header = None;
    let mut each = |row: &csv::Row| match &header {
        None => {
            header = Some((places(row)?, row.len()));
            Ok(())
        }
        Some((places, width)) => take(row.line, from_row(row, places, *width)),
    };
    loop {
        let piece = input.fill_buf()?;
        let length = piece.len();
        if length == 0 {
            break;
        }
        reader.feed(piece, &mut each)?;
        input.consume(length);
    }
    reader.end(&mut each)?;
    header.map(drop).context("the first line must name the columns")
}

/// Where each of [`COLUMNS`] is.
fn places(header: &csv::Row) -> anyhow::Result<[Option<usize>; COLUMNS.len()]> {
    if let Some(why) = header.fault() {
        bail!("the header {why}");
    }
    let mut places = [None; COLUMNS.len()];
    for (place, name) in header.fields().enumerate() {
        let Some(column) = COLUMNS.iter().position(|column| *column == name) else {
            bail!("there is no column {name:?}; the columns are {}", COLUMNS.join(", "));
        };
        if places[column].replace(place).is_some() {
            bail!("the column {name:?} is there twice");
        }
    }
    match places[..3].iter().position(Option::is_none) {
        None => Ok(places),
        Some(missing) => bail!("the column {:?} is missing", COLUMNS[missing]),
    }
}

fn from_row(
    row: &csv::Row,
    places: &[Option<usize>; COLUMNS.len()],
    width: usize,
) -> Result<NewEvent<'static>, Rejection> {
    if let Some(why) = row.fault() {
        return Err(Rejection::invalid(why));
    }
    if row.len() != width {
        return Err(Rejection::invalid(format!("has {} columns where the header has {width}", row.len())));
    }
    let [id, customer, meter, quantity, timestamp, value, correction] =
        places.map(|place| Some(row.get(place?)).filter(|text| !text.is_empty()).map(str::to_owned));
    Ok(NewEvent {
        id: id.unwrap_or_default().into(),
        customer: customer.unwrap_or_default().into(),
        meter: meter.unwrap_or_default().into(),
        quantity: quantity.map(Cow::Owned),
        timestamp: timestamp.map(Into::into),
        value: value.map(Into::into),
        correction: match correction.as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(Rejection::invalid("correction: must be true or false")),
        },
    })
}
