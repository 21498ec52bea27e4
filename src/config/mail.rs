//! Mail settings: which server takes our e-mail, and who they are from.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::client::Certificate;
use reqwest::Url;

use super::Secret;

/// How e-mail goes out, read and checked.
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// None: no e-mail is sent.
    pub server: Option<SmtpServer>,
    /// Always there where a server is.
    pub from: Option<Mailbox>,
    pub(crate) reply_to: Option<Mailbox>,
    /// Who hears of incidents.
    pub operator: Option<Mailbox>,
    /// Templates of the owner's, used before our own.
    pub(crate) templates: Option<PathBuf>,
    /// Who e-mails finalized invoices.
    pub invoices: InvoiceEmails,
    /// How an invoice's e-mail brings Stripe's PDF.
    pub pdf: InvoicePdf,
    /// What stands in `List-Unsubscribe`: a `mailto:` or `https:` URL. None: no such header.
    pub unsubscribe: Option<String>,
}

/// Who e-mails finalized invoices to customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceEmails {
    /// Nobody here. Stripe may by its own settings.
    Off,
    /// Opentab, through the mail server.
    Smtp,
    /// Stripe, when Opentab asks it to: those that it sends and does not charge.
    Stripe,
}

impl FromStr for InvoiceEmails {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<InvoiceEmails, Self::Err> {
        match text {
            "off" => Ok(InvoiceEmails::Off),
            "smtp" => Ok(InvoiceEmails::Smtp),
            "stripe" => Ok(InvoiceEmails::Stripe),
            _ => Err("must be off, smtp or stripe"),
        }
    }
}

/// How an invoice's e-mail brings Stripe's PDF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoicePdf {
    /// As a link to it.
    Link,
    /// In the e-mail itself.
    Attach,
}

impl FromStr for InvoicePdf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<InvoicePdf, Self::Err> {
        match text {
            "link" => Ok(InvoicePdf::Link),
            "attach" => Ok(InvoicePdf::Attach),
            _ => Err("must be link or attach"),
        }
    }
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpServer {
    pub host: String,
    pub port: u16,
    pub(crate) encryption: Encryption,
    /// User and password, where the server asks for them.
    pub login: Option<(String, Secret)>,
    /// How long to wait for one answer.
    pub timeout: Duration,
    /// Certificates in PEM that are trusted beside the public ones; empty for none.
    pub(crate) roots: Vec<u8>,
}

/// What protects a connection to the mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// From the first byte: `smtps://`.
    Tls,
    /// STARTTLS, or nothing is sent: `smtp://`.
    StartTls,
    /// STARTTLS where the server offers it: `smtp://` to this machine.
    WhereOffered,
    /// `?tls=none`, for a relay in a network of one's own.
    Nothing,
}

impl SmtpServer {
    /// Reads `smtps://user:password@host:465` or `smtp://user:password@host:587`.
    ///
    /// # Errors
    /// Why it cannot be used, without repeating it: a password may stand in it.
    pub fn parse(text: &str, timeout: Duration) -> Result<SmtpServer, String> {
        let url = Url::parse(text).map_err(|_| "is not a URL such as smtps://user:password@host:465")?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?.to_owned();
        let encryption = encryption(&url, &host)?;
        let usual = if encryption == Encryption::Tls { 465 } else { 587 };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) => Some((decoded(user)?, Secret(decoded(password)?))),
            _ => return Err("has a user without a password".to_owned()),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(SmtpServer {
            host,
            port: url.port().unwrap_or(usual),
            encryption,
            login,
            timeout,
            roots: Vec::new(),
        })
    }
}

fn encryption(url: &Url, host: &str) -> Result<Encryption, String> {
    let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    match (url.scheme(), url.query()) {
        ("smtps", None) => Ok(Encryption::Tls),
        ("smtp", None) if here => Ok(Encryption::WhereOffered),
        ("smtp", None) => Ok(Encryption::StartTls),
        ("smtp", Some("tls=none")) => Ok(Encryption::Nothing),
        ("smtp" | "smtps", Some(_)) => Err("may end with ?tls=none and nothing else".to_owned()),
        _ => Err("must start with smtp:// or smtps://".to_owned()),
    }
}

/// The certificates of a file, as [`SmtpServer::roots`] holds them.
///
/// # Errors
/// Why there are none.
pub(super) fn certificates(file: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("{file} cannot be read: {error}"))?;
    let is_pem = pem.windows(BEGIN.len()).any(|part| part == BEGIN) && Certificate::from_pem(&pem).is_ok();
    is_pem.then_some(pem).ok_or_else(|| format!("{file} holds no certificate in PEM"))
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What stands percent-encoded in a URL.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "has a user or password that cannot be read; percent-encode it".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (rest, _) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let pair = [*high, *low];
                let digits = std::str::from_utf8(&pair).map_err(|_| wrong())?;
                (after, bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?))
            }
            (b'%', _) => return Err(wrong()),
            (byte, after) => (after, bytes.push(*byte)),
        };
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// An address such as `Acme <billing@acme.example>`.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address such as Acme <billing@acme.example>"))
}

/// Where somebody can say that they want no more e-mail: an address, or an `https:` URL.
pub(super) fn unsubscribe(text: &str) -> Result<String, String> {
    let wrong =
        || format!("`{text}` is neither an address nor a URL such as https://acme.example/unsubscribe");
    let url = if text.contains("://") {
        Url::parse(text).ok().filter(|url| url.scheme() == "https")
    } else {
        let address: lettre::Address =
            text.strip_prefix("mailto:").unwrap_or(text).parse().map_err(|_| wrong())?;
        Url::parse(&format!("mailto:{address}")).ok()
    };
    // As the URL's own writing has it: nothing in there can end the header.
    url.map(String::from).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SmtpServer, String> {
        SmtpServer::parse(text, Duration::from_secs(1))
    }

    #[test]
    fn a_server_elsewhere_gets_no_password_in_the_clear_unless_somebody_says_so() {
        assert_eq!(read("smtps://u:p@mail.example").unwrap().encryption, Encryption::Tls);
        assert_eq!(read("smtp://u:p@mail.example").unwrap().encryption, Encryption::StartTls);
        assert_eq!(read("smtp://localhost:25").unwrap().encryption, Encryption::WhereOffered);
        assert_eq!(read("smtp://relay:25?tls=none").unwrap().encryption, Encryption::Nothing);
    }

    #[test]
    fn a_password_may_hold_any_character_and_is_never_shown() {
        let server = read("smtps://a%40b.c:p%3A%2F%40@[::1]").unwrap();
        assert_eq!(server.login, Some(("a@b.c".to_owned(), Secret("p:/@".to_owned()))));
        assert_eq!((server.host.as_str(), server.port), ("::1", 465));
        assert!(!format!("{server:?}").contains("p:/@"));
    }

    #[test]
    fn a_way_to_unsubscribe_is_an_address_or_a_url_and_never_a_second_header() {
        assert_eq!(unsubscribe("bye@acme.example").unwrap(), "mailto:bye@acme.example");
        assert_eq!(unsubscribe("https://acme.example/bye?x=1").unwrap(), "https://acme.example/bye?x=1");
        for wrong in ["http://acme.example/", "bye", "a@b.example>\r\nBcc: eve@example.com", "mailto:"] {
            assert!(unsubscribe(wrong).is_err(), "{wrong}");
        }
        assert!(!unsubscribe("https://a.example/>\r\nBcc:%20x").unwrap().contains(['>', '\r', '\n']));
    }

    #[test]
    fn what_is_wrong_with_an_address_does_not_repeat_its_password() {
        for wrong in ["http://u:canary@h", "smtp://u:canary@h?x=1", "smtp://canary@h", "smtp://u:canary%zz@h"]
        {
            let why = read(wrong).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
