//! Customer list: which columns a CSV file of customers has, and what one of its lines says.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use opentab_billing::{CollectionMethod, Currency};

use crate::{csv, fields};

/// The columns, each with other names that are understood. Case, spaces, hyphens and dots do not matter. A column
/// `metadata.KEY` is metadata.
pub const COLUMNS: &[(&str, &[&str])] = &[
    ("external_id", &["id", "customer", "customer_id", "account", "account_id", "tenant", "tenant_id"]),
    ("name", &["customer_name", "company", "company_name", "full_name", "display_name"]),
    ("email", &["e_mail", "mail", "email_address", "e_mail_address", "billing_email"]),
    ("currency", &["currency_code"]),
    ("time_zone", &["timezone", "tz"]),
    ("anchor_day", &["billing_day"]),
    ("collection_method", &["collection"]),
    ("days_until_due", &["due_days", "payment_terms", "net_days"]),
    ("stripe_customer_id", &["stripe_id", "stripe_customer"]),
    ("locale", &["language", "lang"]),
    ("active_from", &["start_date", "valid_from"]),
    ("active_until", &["end_date", "valid_until"]),
    ("prices", &["price", "plan", "plans", "services"]),
    ("services_from", &["prices_from", "plan_from"]),
];

/// What removes a value that may be removed; an empty cell says nothing.
const REMOVE: &str = "-";
const METADATA: &str = "metadata_";

/// Why a line cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// From 1, the header among them.
    pub line: u64,
    /// Which column, where it is one.
    pub column: Option<String>,
    /// For programs.
    pub code: String,
    /// For people.
    pub detail: String,
}

impl Fault {
    /// A fault of a line.
    pub fn new(line: u64, column: Option<&str>, code: &str, detail: impl Into<String>) -> Fault {
        Fault { line, column: column.map(str::to_owned), code: code.to_owned(), detail: detail.into() }
    }
}

/// What a line says of a customer; what is absent is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// What invoices and pages call the customer, at most 200 characters on one line.
    pub name: Option<String>,
    /// Some(None) removes it, here and below.
    #[serde(with = "twice")]
    pub email: Option<Option<String>>,
    /// The currency of all amounts; the file may write it in capitals.
    pub currency: Option<Currency>,
    /// The IANA time zone whose midnights begin the customer's days and billing cycles.
    pub time_zone: Option<Tz>,
    /// The day of the month on which a billing cycle begins, 1 to 31.
    pub anchor_day: Option<u8>,
    /// Whether Stripe charges the customer or sends an invoice to pay.
    pub collection_method: Option<CollectionMethod>,
    /// Days until a sent invoice is due, 0 to 365.
    pub days_until_due: Option<i64>,
    /// The customer's id at Stripe, `cus_…`, if Stripe already has them.
    pub stripe_customer_id: Option<String>,
    /// The language of e-mails and pages for the customer, such as `de` or `pt-BR`.
    pub locale: Option<String>,
    /// The first local day on which the customer is billed; Some(None) sets no first day.
    #[serde(with = "twice")]
    pub active_from: Option<Option<NaiveDate>>,
    /// The first local day on which the customer is no longer billed; Some(None) means no end.
    #[serde(with = "twice")]
    pub active_until: Option<Option<NaiveDate>>,
    /// Ids or names of prices that the customer pays.
    pub prices: Vec<String>,
    /// The local day on which services for new `prices` begin; None means today.
    pub services_from: Option<NaiveDate>,
    /// The cells of `metadata.KEY` columns by key; an empty value removes the key.
    pub metadata: BTreeMap<String, String>,
}

/// Tells "not said" from "none" in JSON, as a list of none or one.
mod twice {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.pop())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    Known(&'static str),
    Metadata(String),
    Ignored,
}

/// Where the columns of a file are.
#[derive(Clone, Debug)]
pub struct Header(Vec<Column>);

/// Lower case, with one underscore for whatever separates words.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for c in name.trim().chars() {
        match c {
            ' ' | '-' | '.' | '_' if plain.ends_with('_') => {}
            ' ' | '-' | '.' | '_' => plain.push('_'),
            c => plain.extend(c.to_lowercase()),
        }
    }
    plain
}

fn known(name: &str) -> Option<&'static str> {
    let is = |(column, others): &&(&'static str, &[&str])| *column == name || others.contains(&name);
    COLUMNS.iter().find(is).map(|(column, _)| *column)
}

/// Reads `E-mail=email`; nothing behind the sign passes a column over.
///
/// # Errors
/// What is wrong with it.
pub fn mapping(text: &str) -> Result<(String, String), String> {
    let Some((theirs, ours)) = text.split_once('=') else {
        return Err(format!("`{text}` must look like \"E-mail=email\""));
    };
    let ours = plain(ours);
    if ours.is_empty() || known(&ours).is_some() || ours.starts_with(METADATA) {
        Ok((plain(theirs), ours))
    } else {
        Err(format!("there is no column `{ours}`; the columns are {}", names()))
    }
}

fn names() -> String {
    COLUMNS.iter().map(|(name, _)| *name).chain(["metadata.KEY"]).collect::<Vec<_>>().join(", ")
}

impl Header {
    /// The columns that a file's first row names.
    ///
    /// # Errors
    /// What is wrong with it: nothing below can be read then.
    pub fn read(row: &csv::Row, maps: &[(String, String)]) -> Result<Header, Fault> {
        let fault =
            |column: Option<&str>, code, detail: String| Err(Fault::new(row.line, column, code, detail));
        if let Some(why) = row.fault() {
            return fault(None, "unreadable", format!("the header {why}"));
        }
        if row.len() == 1 && row.get(0).contains([';', '\t']) {
            return fault(None, "separator", "columns must be separated by commas".to_owned());
        }
        let mut columns = Vec::with_capacity(row.len());
        for name in row.fields() {
            let column = match column(name, maps) {
                Some(column) => column,
                None => {
                    let detail = format!(
                        "there is no such column; the columns are {}. Say what it is (or that it is nothing: `=`) by a mapping",
                        names()
                    );
                    return fault(Some(&shown(name)), "unknown_column", detail);
                }
            };
            if column != Column::Ignored && columns.contains(&column) {
                return fault(Some(&shown(name)), "repeated_column", "is there twice".to_owned());
            }
            columns.push(column);
        }
        if columns.contains(&Column::Known("external_id")) {
            Ok(Header(columns))
        } else {
            fault(
                Some("external_id"),
                "missing_column",
                "the first line must name the columns, your own id of each customer among them".to_owned(),
            )
        }
    }

    /// What a line says: whose it is, and what it wants.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn line(&self, row: &csv::Row) -> Result<(String, Wanted), Vec<Fault>> {
        if let Some(why) = row.fault() {
            return Err(vec![Fault::new(row.line, None, "unreadable", why)]);
        }
        if row.len() != self.0.len() {
            let detail = format!("has {} columns where the header has {}", row.len(), self.0.len());
            return Err(vec![Fault::new(row.line, None, "columns", detail)]);
        }
        let mut wanted = Wanted::default();
        let mut external_id = String::new();
        let mut faults = Vec::new();
        for (place, column) in self.0.iter().enumerate() {
            let text = row.get(place);
            let said = match column {
                Column::Ignored => Ok(()),
                Column::Known("external_id") => own_id(text).map(|id| external_id = id),
                _ if text.is_empty() => Ok(()),
                Column::Metadata(key) => metadata(key, text, &mut wanted),
                Column::Known(name) => wanted.say(name, text),
            };
            if let Err((code, detail)) = said {
                faults.push(Fault::new(row.line, Some(column.name()), code, detail));
            }
        }
        if faults.is_empty() { Ok((external_id, wanted)) } else { Err(faults) }
    }
}

impl Column {
    fn name(&self) -> &str {
        match self {
            Column::Known(name) => name,
            Column::Metadata(key) => key,
            Column::Ignored => "",
        }
    }
}

fn column(name: &str, maps: &[(String, String)]) -> Option<Column> {
    let theirs = plain(name);
    let ours = maps.iter().find(|(from, _)| *from == theirs).map(|(_, to)| to.as_str());
    let ours = ours.unwrap_or(&theirs);
    if ours.is_empty() {
        return Some(Column::Ignored);
    }
    if ours.starts_with(METADATA) {
        // The key as it was written, not as it is compared.
        let key = name.trim().get(METADATA.len()..).filter(|_| theirs == ours);
        let key = key.or(ours.get(METADATA.len()..)).unwrap_or_default();
        return fields::is_metadata_key(key).then(|| Column::Metadata(key.to_owned()));
    }
    known(ours).map(Column::Known)
}

/// What can be repeated to somebody: not all of a large cell.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

type Said = Result<(), (&'static str, String)>;

fn own_id(text: &str) -> Result<String, (&'static str, String)> {
    match text {
        "" => Err(("missing", "every line must name its customer by your own id".to_owned())),
        _ if !fields::is_id(text) => Err(("invalid_id", fields::ID_RULE.to_owned())),
        _ if text.starts_with("ot_") => Err(("reserved", "ids that begin with ot_ are ours".to_owned())),
        _ => Ok(text.to_owned()),
    }
}

fn metadata(key: &str, text: &str, wanted: &mut Wanted) -> Said {
    sound(text)?;
    if text.chars().count() > 500 {
        Err(("too_long", "may have at most 500 characters".to_owned()))
    } else {
        let value = if text == REMOVE { "" } else { text };
        wanted.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

/// Without characters that harm whoever shows or stores them.
fn sound(text: &str) -> Said {
    fields::bad_characters(text).map_or(Ok(()), |why| Err(("invalid_characters", why.to_owned())))
}

/// One line of so many characters.
fn line_of(text: &str, most: usize) -> Result<String, (&'static str, String)> {
    sound(text)?;
    if text.contains(['\n', '\r', '\t']) {
        return Err(("invalid_characters", "must be one line".to_owned()));
    }
    if text.chars().count() > most {
        Err(("too_long", format!("may have at most {most} characters")))
    } else {
        Ok(text.to_owned())
    }
}

fn whole(text: &str, most: i64, least: i64) -> Result<i64, (&'static str, String)> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| ("out_of_range", format!("must be a whole number from {least} to {most}")))
}

fn day(text: &str) -> Result<NaiveDate, (&'static str, String)> {
    fields::day(text)
        .ok_or_else(|| ("invalid_day", format!("`{}` is not a day such as 2026-11-21", shown(text))))
}

fn removable<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, (&'static str, String)>,
) -> Result<Option<T>, (&'static str, String)> {
    if text == REMOVE { Ok(None) } else { read(text).map(Some) }
}

impl Wanted {
    fn say(&mut self, column: &str, text: &str) -> Said {
        match column {
            "name" => self.name = Some(line_of(text, 200)?),
            "email" => self.email = Some(removable(text, email)?),
            "currency" => self.currency = Some(currency(text)?),
            "time_zone" => self.time_zone = Some(time_zone(text)?),
            "anchor_day" => self.anchor_day = u8::try_from(whole(text, 31, 1)?).ok(),
            "collection_method" => {
                self.collection_method = Some(text.parse().map_err(|why| ("invalid_value", why))?);
            }
            "days_until_due" => self.days_until_due = Some(whole(text, 365, 0)?),
            "stripe_customer_id" => self.stripe_customer_id = Some(stripe_id(text)?),
            "locale" => self.locale = Some(locale(text)?),
            "active_from" => self.active_from = Some(removable(text, day)?),
            "active_until" => self.active_until = Some(removable(text, day)?),
            "prices" => self.prices = prices(text)?,
            "services_from" => self.services_from = Some(day(text)?),
            _ => {}
        }
        Ok(())
    }
}

fn email(text: &str) -> Result<String, (&'static str, String)> {
    sound(text)?;
    if fields::is_email(text) {
        Ok(text.to_owned())
    } else {
        Err(("invalid_email", format!("`{}` is not an e-mail address", shown(text))))
    }
}

/// A list may have come out of a spreadsheet, so here capitals are no fault.
fn currency(text: &str) -> Result<Currency, (&'static str, String)> {
    Currency::parse(&text.to_ascii_lowercase()).map_err(|_| {
        ("unknown_currency", format!("`{}` is not a currency that Stripe supports", shown(text)))
    })
}

fn time_zone(text: &str) -> Result<Tz, (&'static str, String)> {
    text.parse().map_err(|_| ("unknown_time_zone", format!("`{}` is not an IANA time zone", shown(text))))
}

fn stripe_id(text: &str) -> Result<String, (&'static str, String)> {
    if text.starts_with("cus_") && fields::is_id(text) {
        Ok(text.to_owned())
    } else {
        Err(("invalid_id", "Stripe's customer ids begin with cus_".to_owned()))
    }
}

fn locale(text: &str) -> Result<String, (&'static str, String)> {
    if fields::is_locale(text) {
        Ok(text.to_owned())
    } else {
        Err(("invalid_locale", format!("`{}` is not a language such as de or pt-BR", shown(text))))
    }
}

/// Ids or names, with a bar between them.
fn prices(text: &str) -> Result<Vec<String>, (&'static str, String)> {
    let mut prices = Vec::new();
    for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
        let name = line_of(name, 200)?;
        if !prices.contains(&name) {
            prices.push(name);
        }
    }
    if prices.len() > 50 { Err(("too_many", "may name at most 50 prices".to_owned())) } else { Ok(prices) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Result<(String, Wanted), Vec<Fault>>> {
        let mut header = None;
        let mut lines = Vec::new();
        let mut reader = csv::Reader::default();
        let mut take = |row: &csv::Row| {
            match &header {
                None => header = Some(Header::read(row, &[]).unwrap()),
                Some(header) => lines.push(header.line(row)),
            }
            Ok::<(), csv::Unreadable>(())
        };
        reader.feed(text.as_bytes(), &mut take).and_then(|()| reader.end(&mut take)).unwrap();
        lines
    }

    #[test]
    fn columns_have_the_names_that_people_give_them() {
        let text =
            "Customer ID,Company Name,E-Mail,Currency Code,Metadata.Cost Center\nada,Ada,a@b.c,EUR,7\n";
        let (id, wanted) = rows(text).remove(0).unwrap();
        assert_eq!((id.as_str(), wanted.name.as_deref()), ("ada", Some("Ada")));
        assert_eq!(wanted.email, Some(Some("a@b.c".to_owned())));
        assert_eq!(wanted.currency.unwrap().as_str(), "eur");
        assert_eq!(wanted.metadata["Cost Center"], "7");
    }

    #[test]
    fn every_fault_of_a_line_is_told_with_its_column() {
        let text = "id,email,anchor_day,currency\na b,nobody,\"1,5\",XXX\nada,,,\n";
        let rows = rows(text);
        let faults = rows[0].as_ref().unwrap_err();
        let columns: Vec<_> = faults.iter().map(|fault| fault.column.as_deref().unwrap()).collect();
        assert_eq!(columns, ["external_id", "email", "anchor_day", "currency"]);
        assert_eq!(rows[1].as_ref().unwrap().1, Wanted::default());
    }

    #[test]
    fn what_a_line_wants_reads_back_as_it_was_written() {
        let text = "id,email,active_from,active_until,prices,time_zone\na,-,2026-11-01,-,One | Two|One,UTC\n";
        let (_, wanted) = rows(text).remove(0).unwrap();
        assert_eq!(wanted.prices, ["One", "Two"]);
        assert_eq!((&wanted.email, wanted.active_until), (&Some(None), Some(None)));
        let text = serde_json::to_string(&wanted).unwrap();
        assert_eq!(serde_json::from_str::<Wanted>(&text).unwrap(), wanted);
    }

    #[test]
    fn a_mapping_names_a_column_that_there_is() {
        assert_eq!(mapping("Kunden-Nr=external_id").unwrap(), ("kunden_nr".into(), "external_id".into()));
        assert_eq!(mapping("Notes=").unwrap().1, "");
        assert!(mapping("Notes").is_err() && mapping("Notes=nothing").is_err());
    }
}
