//! Lookup: where amounts from outside come from, as the tables `[lookup.NAME]` of `opentab.toml` say.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use super::{ConfigError, Secret, bad, duration};

/// An API of the user's own that knows what a customer owes for a month.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub name: String,
    /// With {customer}, {external_id}, {month}, {currency} and {metadata.KEY} to be filled in.
    pub url: String,
    /// Sent with each request; never shown.
    pub headers: Vec<(String, Secret)>,
    /// Where the amount stands in the answer: a JSON pointer.
    pub amount: String,
    /// Where its currency stands; none where it is the customer's.
    pub currency: Option<String>,
    pub unit: AmountUnit,
    pub missing: MissingAmount,
    /// For one answer.
    pub timeout: Duration,
}

/// What an amount is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AmountUnit {
    /// Whole minor units, as Stripe has them: 1250.
    Minor,
    /// Decimal major units: 12.50.
    Major,
}

/// What follows from `null`, or from a 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingAmount {
    /// Nothing is billed, and it is listed.
    Skip,
    /// The amount is nought.
    Zero,
}

impl FromStr for AmountUnit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<AmountUnit, Self::Err> {
        match text {
            "minor" => Ok(AmountUnit::Minor),
            "major" => Ok(AmountUnit::Major),
            _ => Err("must be minor or major"),
        }
    }
}

impl FromStr for MissingAmount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<MissingAmount, Self::Err> {
        match text {
            "skip" => Ok(MissingAmount::Skip),
            "zero" => Ok(MissingAmount::Zero),
            _ => Err("must be skip or zero"),
        }
    }
}

/// What the tables say.
pub(super) fn lookups(
    tables: Option<toml::Value>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Lookup>, ConfigError> {
    let Some(tables) = tables else { return Ok(Vec::new()) };
    let toml::Value::Table(tables) = tables else { return bad("lookup", "must be tables [lookup.NAME]") };
    let mut lookups = Vec::new();
    for (name, value) in tables {
        let place = format!("lookup.{name}");
        let toml::Value::Table(table) = value else { return bad(&place, "must be a table") };
        lookups.push(lookup(name, table, env).or_else(|why| bad(&place, why))?);
    }
    Ok(lookups)
}

fn lookup(name: String, table: toml::Table, env: &BTreeMap<String, String>) -> Result<Lookup, String> {
    let mut lookup = Lookup {
        name,
        url: String::new(),
        headers: Vec::new(),
        amount: "/amount".to_owned(),
        currency: None,
        unit: AmountUnit::Minor,
        missing: MissingAmount::Skip,
        timeout: Duration::from_secs(10),
    };
    for (key, value) in table {
        if key == "headers" {
            lookup.headers = headers(&value, env)?;
            continue;
        }
        let text = value.as_str().ok_or_else(|| format!("{key}: must be a string"))?.to_owned();
        let said = |why: &str| format!("{key}: {why}");
        match key.as_str() {
            "url" => lookup.url = text,
            "amount" => lookup.amount = pointer(text).map_err(said)?,
            "currency" => lookup.currency = Some(pointer(text).map_err(said)?),
            "unit" => lookup.unit = text.parse().map_err(said)?,
            "missing" => lookup.missing = text.parse().map_err(said)?,
            "timeout" => {
                lookup.timeout = duration(&text)?.clamp(Duration::from_secs(1), Duration::from_secs(60))
            }
            _ => {
                return Err(format!(
                    "there is no `{key}`; there are url, headers, amount, currency, unit, missing, timeout"
                ));
            }
        }
    }
    if lookup.url.starts_with("https://") || lookup.url.starts_with("http://") {
        Ok(lookup)
    } else {
        Err("url: must start with https://".to_owned())
    }
}

fn pointer(text: String) -> Result<String, &'static str> {
    if text.starts_with('/') { Ok(text) } else { Err("must be a JSON pointer such as /data/amount") }
}

/// A value `$NAME` is what the environment holds under that name, so that no secret need stand in a file.
fn headers(value: &toml::Value, env: &BTreeMap<String, String>) -> Result<Vec<(String, Secret)>, String> {
    let table = value.as_table().ok_or("headers: must be a table")?;
    let mut headers = Vec::new();
    for (name, value) in table {
        let text = value.as_str().ok_or_else(|| format!("headers: {name} must be a string"))?;
        let text = match text.strip_prefix('$') {
            None => text,
            Some(variable) => {
                let held = env.get(variable).map(String::as_str);
                held.ok_or_else(|| format!("headers: {name}: the environment has no {variable}"))?
            }
        };
        headers.push((name.clone(), Secret(text.to_owned())));
    }
    Ok(headers)
}
