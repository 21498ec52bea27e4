//! Settings: the environment first, then `opentab.toml`, then the default. A typo is an error, never ignored.

mod lookup;
mod mail;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use opentab_webhooks::Secrets;

use crate::store::Location;
use opentab_billing::{Reason, Strategies, Strategy};

pub(crate) use lookup::{AmountUnit, Lookup, MissingAmount};
pub(crate) use mail::{Encryption, InvoiceEmails, InvoicePdf, MailSettings, SmtpServer};

/// One setting. `--help`, the README and the check for typos all read this list.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable. In `opentab.toml` the same name in lower case, without `OPENTAB_`.
    pub name: &'static str,
    /// What holds where nobody says otherwise; empty for none.
    pub default: &'static str,
    /// One line for people.
    pub help: &'static str,
}

const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, help }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting(
        "DATABASE_URL",
        "sqlite:opentab.db",
        "Where the data lives: sqlite:FILE, or postgres://… for several replicas",
    ),
    setting("STRIPE_SECRET_KEY", "", "Stripe's secret or restricted key; sk_test_… bills nobody"),
    setting(
        "STRIPE_WEBHOOK_SECRET",
        "",
        "The webhook endpoint's whsec_…; several by comma while one is being rolled",
    ),
    setting(
        "STRIPE_API_BASE",
        "https://api.stripe.com/",
        "Where Stripe is: `opentab sandbox` or a recording proxy otherwise",
    ),
    setting("OPENTAB_LISTEN", "127.0.0.1:8080", "Address and port to serve on"),
    setting(
        "OPENTAB_PUBLIC_URL",
        "",
        "How customers and Stripe reach this server; default: http:// and the listen address",
    ),
    setting(
        "OPENTAB_SYNC_EVERY",
        "5m",
        "How often changed drafts are brought in step with Stripe (30s, 5m, 1h)",
    ),
    setting(
        "OPENTAB_GRACE",
        "1h",
        "How long after its end a billing cycle still takes usage before its invoice is finalized",
    ),
    setting(
        "OPENTAB_STRIPE_RATE",
        "",
        "Calls a second to Stripe, all endpoints together; default 100 live, 25 test",
    ),
    setting("OPENTAB_STRIPE_ENDPOINT_RATE", "25", "Calls a second to one Stripe endpoint"),
    setting(
        "OPENTAB_STRIPE_READS",
        "",
        "Reads (GET) in 30 days at which comparing with Stripe stops; default 500 for each paid invoice, at least 10000",
    ),
    setting("OPENTAB_STRIPE_TIMEOUT", "30s", "How long to wait for one answer of Stripe"),
    setting("OPENTAB_LINES_PER_CALL", "50", "Invoice lines in one bulk call (Stripe takes 50)"),
    setting(
        "OPENTAB_LINES_PER_INVOICE",
        "250",
        "Lines on one draft; the smallest beyond it become one line (Stripe takes 250)",
    ),
    setting(
        "OPENTAB_RECONCILE_EVERY",
        "1d",
        "How often ledger and drafts are compared with what Stripe holds",
    ),
    setting(
        "OPENTAB_COLLECTION",
        "stripe",
        "Who charges finalized invoices: stripe, by its own rules, or opentab, by the ladders of `opentab dunning show`",
    ),
    setting("OPENTAB_CHARGES_AT_ONCE", "32", "Charges that are under way at once, over all replicas"),
    setting(
        "OPENTAB_SUSPENSION_GRACE",
        "14d",
        "How long after its due date an invoice may be unpaid before its customer is suspended",
    ),
    setting("OPENTAB_WORKERS", "8", "Jobs that run at once, beside charges"),
    setting(
        "OPENTAB_INGEST_WRITERS",
        "",
        "Transactions that store usage at once; default 1 on SQLite, 2 on PostgreSQL",
    ),
    setting(
        "OPENTAB_REQUESTS_PER_SECOND",
        "2000",
        "Requests a second that one API key may send before it gets 429",
    ),
    setting("OPENTAB_LINK_LIFETIME", "7d", "How long a billing link can be opened"),
    setting("OPENTAB_CONSOLE_SESSION", "12h", "How long somebody stays signed in to the operator's console"),
    setting(
        "OPENTAB_SMTP_URL",
        "",
        "The mail server: smtps://user:password@host:465, or smtp://… with STARTTLS; without it no e-mail is sent",
    ),
    setting("OPENTAB_SMTP_TIMEOUT", "60s", "How long to wait for one answer of the mail server"),
    setting(
        "OPENTAB_SMTP_CA",
        "",
        "A PEM file with certificates to trust for the mail server, beside the public ones",
    ),
    setting("OPENTAB_EMAIL_FROM", "", "Who e-mail is from, such as Acme Billing <billing@acme.example>"),
    setting("OPENTAB_EMAIL_REPLY_TO", "", "Where answers to e-mail go; default: who it is from"),
    setting("OPENTAB_OPERATOR_EMAIL", "", "Who hears of each incident by e-mail"),
    setting(
        "OPENTAB_INVOICE_EMAILS",
        "off",
        "Who e-mails finalized invoices: off, smtp, by OPENTAB_SMTP_URL, or stripe, where they are sent and not charged",
    ),
    setting("OPENTAB_INVOICE_PDF", "link", "Stripe's PDF in an invoice's e-mail: link or attach"),
    setting(
        "OPENTAB_EMAIL_UNSUBSCRIBE",
        "",
        "List-Unsubscribe of e-mails to customers: an address or an https:// URL; without it they have none",
    ),
    setting(
        "OPENTAB_TEMPLATES",
        "",
        "A folder with e-mail templates of your own, used before the built-in ones",
    ),
    setting(
        "OPENTAB_WEBHOOK_ALLOW",
        "",
        "Hosts, by comma, that outgoing requests may reach in a private network or without https",
    ),
    setting(
        "OPENTAB_LOOKUP_WAIT",
        "3d",
        "How long after its grace an invoice waits for amounts that are looked up; then it is closed without",
    ),
    setting(
        "OPENTAB_BILLED_CUSTOMERS",
        "active",
        "Who is billed for a cycle: active, by active_from and active_until, or imported: of these, whom a customer list named for it",
    ),
    setting("OPENTAB_LOG", "info", "What to log, such as info or opentab=debug"),
    setting("OPENTAB_LOG_FORMAT", "text", "text or json"),
];

/// The settings, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database that `DATABASE_URL` names.
    pub database: Location,
    /// None until somebody sets it; `serve` will not start without.
    pub stripe_secret_key: Option<Secret>,
    pub(crate) stripe_webhook_secrets: Option<Secrets>,
    /// With a trailing slash.
    pub(crate) stripe_api_base: String,
    /// Address and port on which `opentab serve` accepts HTTP requests.
    pub listen: SocketAddr,
    /// Without a trailing slash.
    pub(crate) public_url: String,
    /// How often the schedule writes changed drafts to Stripe.
    pub sync_every: Duration,
    /// How long after its end a billing cycle still takes usage before its invoice is finalized.
    pub grace: Duration,
    /// Calls a second, all endpoints together.
    pub(crate) stripe_rate: u32,
    /// Calls a second to one endpoint.
    pub(crate) stripe_endpoint_rate: u32,
    /// In 30 days; none for what Stripe allows.
    pub(crate) stripe_reads: Option<u32>,
    pub(crate) stripe_timeout: Duration,
    pub(crate) reconcile_every: Duration,
    pub(crate) lines_per_call: usize,
    pub(crate) lines_per_invoice: usize,
    /// Who charges.
    pub collection: Collection,
    pub(crate) charges_at_once: usize,
    /// After a due date, before the customer is suspended.
    pub(crate) suspension_grace: Duration,
    /// What follows a charge that failed.
    pub dunning: Strategies,
    /// Where amounts from outside come from.
    pub(crate) lookups: Vec<Lookup>,
    /// After its grace, how long an invoice waits for such amounts.
    pub(crate) lookup_wait: Duration,
    /// How many jobs one process runs at once, charges aside.
    pub workers: usize,
    pub(crate) ingest_writers: usize,
    pub(crate) requests_per_second: u32,
    pub(crate) link_lifetime: Duration,
    /// How long a session of the console lasts at most.
    pub(crate) console_session: Duration,
    /// The mail server, its addresses, and who e-mails invoices.
    pub mail: MailSettings,
    /// Hosts that outgoing requests may reach in a private network or without https, in lower case.
    pub webhook_allow: Vec<String>,
    pub(crate) billed_customers: BilledCustomers,
    /// The log filter, such as `info` or `opentab=debug`.
    pub log: String,
    pub(crate) log_json: bool,
}

/// Who charges finalized invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Stripe, by its own rules; Opentab follows and shows the same states.
    Stripe,
    /// Opentab, and Stripe leaves them alone.
    Opentab,
}

impl FromStr for Collection {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Collection, Self::Err> {
        match text {
            "stripe" => Ok(Collection::Stripe),
            "opentab" => Ok(Collection::Opentab),
            _ => Err("must be stripe or opentab"),
        }
    }
}

/// Which customers are billed for a cycle, of those whose active days reach into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BilledCustomers {
    /// All of them.
    Active,
    /// Those whom a customer list named for it.
    Imported,
}

impl FromStr for BilledCustomers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<BilledCustomers, Self::Err> {
        match text {
            "active" => Ok(BilledCustomers::Active),
            "imported" => Ok(BilledCustomers::Imported),
            _ => Err("must be active or imported"),
        }
    }
}

/// A string that never shows itself in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// What is wrong with the settings, in one line that says which and why.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

/// Fails with the setting's name in front.
fn bad<T>(name: &str, why: impl fmt::Display) -> Result<T, ConfigError> {
    Err(ConfigError(format!("{name}: {why}")))
}

impl Config {
    /// Reads the environment and, where there is one, `opentab.toml` in this folder.
    pub fn load() -> Result<Config, ConfigError> {
        let file = Path::new("opentab.toml");
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return bad("opentab.toml", error),
        };
        Config::from_sources(std::env::vars().collect(), &text)
    }

    /// The settings of these variables and this file's text.
    pub fn from_sources(env: BTreeMap<String, String>, toml: &str) -> Result<Config, ConfigError> {
        let mut toml: toml::Table = toml
            .parse()
            .map_err(|error: toml::de::Error| ConfigError(format!("opentab.toml: {}", error.message())))?;
        let dunning = dunning(toml.remove("dunning"))?;
        let lookups = lookup::lookups(toml.remove("lookup"), &env)?;
        Ok(Config { dunning, lookups, ..Values::new(env, toml)?.config()? })
    }

    /// Whether Stripe's key moves real money.
    pub fn livemode(&self) -> bool {
        self.stripe_secret_key.as_ref().is_some_and(|key| key.0.contains("_live_"))
    }
}

/// The name of a setting in `opentab.toml`.
pub fn toml_key(name: &str) -> String {
    name.strip_prefix("OPENTAB_").unwrap_or(name).to_ascii_lowercase()
}

/// Setting name to text, from every source, typos refused.
struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn new(env: BTreeMap<String, String>, table: toml::Table) -> Result<Values, ConfigError> {
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let Some(setting) = SETTINGS.iter().find(|setting| toml_key(setting.name) == key) else {
                return bad(
                    "opentab.toml",
                    format!("there is no setting `{key}`; `opentab serve --help` lists them"),
                );
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                _ => return bad(&key, "must be a string or a whole number"),
            };
            values.insert(setting.name, text);
        }
        for (name, value) in env {
            match SETTINGS.iter().find(|setting| setting.name == name) {
                Some(setting) => _ = values.insert(setting.name, value),
                None if name.starts_with("OPENTAB_") => {
                    return bad(&name, "there is no such setting; `opentab serve --help` lists them");
                }
                None => {}
            }
        }
        Ok(Values(values))
    }

    fn text(&self, name: &str) -> &str {
        let set = self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        set.unwrap_or_else(|| {
            SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default)
        })
    }

    fn optional(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, ConfigError> {
        self.text(name).parse().or_else(|why: T::Err| bad(name, why))
    }

    /// A whole number from 1 to a million.
    fn count(&self, name: &str) -> Result<u32, ConfigError> {
        match self.parse(name)? {
            number @ 1..=1_000_000 => Ok(number),
            _ => bad(name, "must be from 1 to 1000000"),
        }
    }

    fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        duration(self.text(name)).or_else(|why| bad(name, why))
    }

    /// How often something happens: never without a pause.
    fn duration_from(&self, name: &str, least_seconds: u64) -> Result<Duration, ConfigError> {
        match self.duration(name)? {
            span if span.as_secs() >= least_seconds => Ok(span),
            _ => bad(name, format!("must be at least {least_seconds}s")),
        }
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let key = self.optional("STRIPE_SECRET_KEY").map(|key| Secret(key.to_owned()));
        let live = key.as_ref().is_some_and(|key| key.0.contains("_live_"));
        let database: Location = self.parse("DATABASE_URL")?;
        let listen: SocketAddr = self.parse("OPENTAB_LISTEN")?;
        let writers = match (self.optional("OPENTAB_INGEST_WRITERS"), &database) {
            (Some(_), _) => self.count("OPENTAB_INGEST_WRITERS")?,
            (None, Location::Postgres(_)) => 2,
            (None, _) => 1,
        };
        Ok(Config {
            stripe_secret_key: key,
            stripe_webhook_secrets: self.webhook_secrets()?,
            stripe_api_base: self.url("STRIPE_API_BASE")? + "/",
            public_url: match self.optional("OPENTAB_PUBLIC_URL") {
                Some(_) => self.url("OPENTAB_PUBLIC_URL")?,
                None => format!("http://{listen}"),
            },
            sync_every: self.duration_from("OPENTAB_SYNC_EVERY", 1)?,
            grace: self.duration("OPENTAB_GRACE")?,
            stripe_rate: match self.optional("OPENTAB_STRIPE_RATE") {
                Some(_) => self.count("OPENTAB_STRIPE_RATE")?,
                None if live => 100,
                None => 25,
            },
            stripe_endpoint_rate: self.count("OPENTAB_STRIPE_ENDPOINT_RATE")?,
            stripe_reads: match self.optional("OPENTAB_STRIPE_READS") {
                Some(_) => Some(self.count("OPENTAB_STRIPE_READS")?),
                None => None,
            },
            reconcile_every: self.duration_from("OPENTAB_RECONCILE_EVERY", 60)?,
            stripe_timeout: self.duration("OPENTAB_STRIPE_TIMEOUT")?,
            lines_per_call: self.count("OPENTAB_LINES_PER_CALL")? as usize,
            lines_per_invoice: self.count("OPENTAB_LINES_PER_INVOICE")? as usize,
            collection: self.parse("OPENTAB_COLLECTION")?,
            charges_at_once: self.count("OPENTAB_CHARGES_AT_ONCE")? as usize,
            suspension_grace: self.duration("OPENTAB_SUSPENSION_GRACE")?,
            dunning: Strategies::default(),
            lookups: Vec::new(),
            lookup_wait: self.duration("OPENTAB_LOOKUP_WAIT")?,
            workers: self.count("OPENTAB_WORKERS")? as usize,
            ingest_writers: writers as usize,
            requests_per_second: self.count("OPENTAB_REQUESTS_PER_SECOND")?,
            link_lifetime: self.duration("OPENTAB_LINK_LIFETIME")?,
            console_session: self.duration("OPENTAB_CONSOLE_SESSION")?,
            mail: self.mail()?,
            webhook_allow: self.names("OPENTAB_WEBHOOK_ALLOW"),
            billed_customers: self.parse("OPENTAB_BILLED_CUSTOMERS")?,
            log: self.text("OPENTAB_LOG").to_owned(),
            log_json: match self.text("OPENTAB_LOG_FORMAT") {
                "json" => true,
                "text" => false,
                _ => return bad("OPENTAB_LOG_FORMAT", "must be text or json"),
            },
            database,
            listen,
        })
    }

    fn webhook_secrets(&self) -> Result<Option<Secrets>, ConfigError> {
        let Some(text) = self.optional("STRIPE_WEBHOOK_SECRET") else { return Ok(None) };
        Secrets::parse(text).map(Some).or_else(|why| bad("STRIPE_WEBHOOK_SECRET", why))
    }

    fn mail(&self) -> Result<MailSettings, ConfigError> {
        let mailbox = |name| {
            let text = self.optional(name);
            text.map(mail::mailbox).transpose().or_else(|why| bad(name, why))
        };
        let timeout = self.duration_from("OPENTAB_SMTP_TIMEOUT", 1)?;
        let server = self.optional("OPENTAB_SMTP_URL").map(|text| SmtpServer::parse(text, timeout));
        let server = server.transpose().or_else(|why| bad("OPENTAB_SMTP_URL", why))?;
        let roots = self.optional("OPENTAB_SMTP_CA").map(mail::certificates);
        let roots = roots.transpose().or_else(|why| bad("OPENTAB_SMTP_CA", why))?.unwrap_or_default();
        let settings = MailSettings {
            server: server.map(|server| SmtpServer { roots, ..server }),
            from: mailbox("OPENTAB_EMAIL_FROM")?,
            reply_to: mailbox("OPENTAB_EMAIL_REPLY_TO")?,
            operator: mailbox("OPENTAB_OPERATOR_EMAIL")?,
            templates: self.optional("OPENTAB_TEMPLATES").map(Into::into),
            invoices: self.parse("OPENTAB_INVOICE_EMAILS")?,
            pdf: self.parse("OPENTAB_INVOICE_PDF")?,
            unsubscribe: {
                let way = self.optional("OPENTAB_EMAIL_UNSUBSCRIBE").map(mail::unsubscribe);
                way.transpose().or_else(|why| bad("OPENTAB_EMAIL_UNSUBSCRIBE", why))?
            },
        };
        match (&settings.server, &settings.from) {
            (Some(_), None) => bad("OPENTAB_EMAIL_FROM", "must be set where OPENTAB_SMTP_URL is"),
            (None, _) if settings.invoices == InvoiceEmails::Smtp => {
                bad("OPENTAB_INVOICE_EMAILS", "is smtp, and OPENTAB_SMTP_URL names no mail server")
            }
            _ => Ok(settings),
        }
    }

    /// Names by comma, in lower case.
    fn names(&self, name: &str) -> Vec<String> {
        let names = self.text(name).split(',').map(|name| name.trim().to_ascii_lowercase());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// An http or https URL, without its trailing slash.
    fn url(&self, name: &str) -> Result<String, ConfigError> {
        let text = self.text(name).trim_end_matches('/');
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(text.to_owned())
        } else {
            bad(name, "must start with http:// or https://")
        }
    }
}

/// What the tables `[dunning.REASON]` of `opentab.toml` change; what they leave out stays.
fn dunning(tables: Option<toml::Value>) -> Result<Strategies, ConfigError> {
    let mut strategies = Strategies::default();
    let Some(tables) = tables else { return Ok(strategies) };
    let toml::Value::Table(tables) = tables else { return bad("dunning", "must be tables [dunning.REASON]") };
    for (name, value) in tables {
        let place = format!("dunning.{name}");
        let reasons = || Reason::ALL.map(Reason::as_str).join(", ");
        let Ok(reason) = name.parse::<Reason>() else {
            return bad(&place, format!("is no reason; there are {}", reasons()));
        };
        let toml::Value::Table(changes) = value else { return bad(&place, "must be a table") };
        let changed = strategy(strategies.of(reason), changes);
        strategies.set(reason, changed.or_else(|why| bad(&place, why))?);
    }
    Ok(strategies)
}

fn strategy(mut strategy: Strategy, changes: toml::Table) -> Result<Strategy, String> {
    for (key, value) in changes {
        let said = |why: String| format!("{key}: {why}");
        match key.as_str() {
            "retry_after" => strategy.retry_after = waits(&value).map_err(said)?,
            "then_every" if value.as_str() == Some("") => strategy.then_every = None,
            "then_every" => strategy.then_every = Some(wait(&value).map_err(said)?),
            "tell" => strategy.tell = value.as_str().unwrap_or_default().parse().map_err(said)?,
            "finally" => strategy.finally = value.as_str().unwrap_or_default().parse().map_err(said)?,
            "provider_down_after" => {
                let tries = value.as_integer().and_then(|tries| u32::try_from(tries).ok());
                strategy.provider_down_after = tries.ok_or_else(|| said("must be a whole number".into()))?;
            }
            _ => {
                return Err(format!(
                    "there is no `{key}`; there are retry_after, then_every, tell, finally, provider_down_after"
                ));
            }
        }
    }
    Ok(strategy)
}

/// More tries than anybody should make of one invoice.
const MOST_WAITS: usize = 100;

fn waits(value: &toml::Value) -> Result<Vec<i64>, String> {
    match value.as_array() {
        Some(all) if all.len() <= MOST_WAITS => all.iter().map(wait).collect(),
        _ => Err(format!("must be a list of at most {MOST_WAITS} time spans such as [\"1d\", \"2d\"]")),
    }
}

/// In milliseconds, a second at least.
fn wait(value: &toml::Value) -> Result<i64, String> {
    let span = duration(value.as_str().unwrap_or_default())?;
    match i64::try_from(span.as_millis()) {
        Ok(ms @ 1_000..) => Ok(ms),
        _ => Err("must be at least 1s".to_owned()),
    }
}

/// A time span such as `30s`, `5m`, `1h` or `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time span such as 30s, 5m, 1h or 7d");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).filter(|&all| all <= 366 * 86_400).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)], toml: &str) -> Result<Config, ConfigError> {
        Config::from_sources(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(), toml)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = config(&[("OPENTAB_GRACE", "2h")], "grace = \"3h\"\nsync_every = \"30s\"").unwrap();
        assert_eq!((config.grace.as_secs(), config.sync_every.as_secs()), (7_200, 30));
    }

    #[test]
    fn a_typo_is_an_error_and_names_itself() {
        assert!(config(&[("OPENTAB_GRASE", "2h")], "").unwrap_err().0.contains("OPENTAB_GRASE"));
        assert!(config(&[], "grase = \"2h\"").unwrap_err().0.contains("grase"));
        assert!(config(&[("OPENTAB_SYNC_EVERY", "0s")], "").unwrap_err().0.contains("at least 1s"));
        assert!(config(&[("OPENTAB_GRACE", "2 hours")], "").unwrap_err().0.starts_with("OPENTAB_GRACE:"));
    }

    #[test]
    fn a_test_key_gets_the_test_rate_and_a_live_key_the_live_one() {
        assert_eq!(config(&[("STRIPE_SECRET_KEY", "sk_test_1")], "").unwrap().stripe_rate, 25);
        assert_eq!(config(&[("STRIPE_SECRET_KEY", "rk_live_1")], "").unwrap().stripe_rate, 100);
    }

    #[test]
    fn a_ladder_is_edited_in_the_file_and_what_it_leaves_out_stays() {
        let toml = "[dunning.declined]\nretry_after = [\"1h\", \"2d\"]\nfinally = \"wait\"";
        let declined = config(&[], toml).unwrap().dunning.of(Reason::Declined);
        assert_eq!(declined.retry_after, [3_600_000, 172_800_000]);
        assert_eq!((declined.finally.as_str(), declined.tell.as_str()), ("wait", "customer"));
        for (wrong, named) in [
            ("[dunning.decline]", "dunning.decline"),
            ("[dunning.declined]\nretry = 1", "retry_after"),
            ("[dunning.declined]\nretry_after = [\"0s\"]", "at least 1s"),
            ("[dunning.declined]\ntell = \"everybody\"", "must be one of"),
            ("dunning = 1", "dunning"),
        ] {
            let error = config(&[], wrong).unwrap_err().0;
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_secret_never_shows_itself() {
        let config = config(
            &[
                ("STRIPE_SECRET_KEY", "sk_test_canary"),
                ("STRIPE_WEBHOOK_SECRET", "whsec_canary"),
                ("DATABASE_URL", "postgres://u:canary@h/d"),
                ("OPENTAB_SMTP_URL", "smtps://u:canary@h"),
                ("OPENTAB_EMAIL_FROM", "a@b.example"),
            ],
            "",
        );
        assert!(config.is_ok() && !format!("{config:?}").contains("canary"));
    }
}
