//! SMTP, spoken step by step: what fails before the message itself was sent has certainly not arrived, and what fails
//! after may have. Between the two it is written down that this step is taken, so that a crash is told apart as well.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use tokio::time::timeout;

use super::message::written;
use super::{Carrier, CarryFuture, Email, HandOver, Outcome};
use crate::clock::Clock;
use crate::config::{Encryption, SmtpServer};

/// After a server that cannot be reached, nobody waits for it again for so long.
const PAUSE_MS: i64 = 15_000;
const CONNECT: Duration = Duration::from_secs(10);
/// How long a polite good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// One mail server.
#[derive(Debug)]
pub(crate) struct Smtp {
    server: SmtpServer,
    clock: Clock,
    /// Not before then, in unix milliseconds: it could not be reached.
    not_before: AtomicI64,
}

impl Smtp {
    /// Connects to nobody yet.
    pub(crate) fn new(server: SmtpServer, clock: Clock) -> Smtp {
        Smtp { server, clock, not_before: AtomicI64::new(i64::MIN) }
    }

    async fn deliver(&self, email: &Email, hand_over: HandOver<'_>) -> Outcome {
        let (envelope, bytes) = match written(email) {
            Ok(written) => written,
            Err(why) => return Outcome::Refused(why),
        };
        if self.clock.now_ms() < self.not_before.load(Ordering::SeqCst) {
            return Outcome::TryLater("the mail server could not be reached a moment ago".to_owned());
        }
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(why) => return self.unreachable(why),
        };
        if let Err(outcome) = self.announce(&mut connection, &envelope, &bytes, hand_over).await {
            let _ = timeout(GOOD_BYE, connection.abort()).await;
            return outcome;
        }
        self.hand_over(connection, &bytes).await
    }

    fn unreachable(&self, why: String) -> Outcome {
        self.not_before.store(self.clock.now_ms() + PAUSE_MS, Ordering::SeqCst);
        Outcome::TryLater(why)
    }

    /// A connection that is ready for an e-mail. That the server refuses the login is no fault of the e-mail.
    async fn connect(&self) -> Result<AsyncSmtpConnection, String> {
        let server = &self.server;
        let name = ClientId::default();
        let implicit = if server.encryption == Encryption::Tls { Some(self.tls()?) } else { None };
        let address = (server.host.as_str(), server.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT), &name, implicit, None);
        let connected = timeout(self.server.timeout, connecting).await;
        let mut connection =
            connected.map_err(|_| "the mail server said no hello".to_owned())?.map_err(told)?;
        let upgrade = match server.encryption {
            Encryption::StartTls => true,
            Encryption::WhereOffered => connection.can_starttls(),
            Encryption::Tls | Encryption::Nothing => false,
        };
        if upgrade {
            self.answer(connection.starttls(self.tls()?, &name)).await?.map_err(told)?;
        }
        if let Some((user, password)) = &server.login {
            let login = Credentials::new(user.clone(), password.0.clone());
            let answer = self.answer(connection.auth(DEFAULT_MECHANISMS, &login)).await?;
            answer.map_err(|error| format!("the mail server refuses the login: {}", told(error)))?;
        }
        Ok(connection)
    }

    fn tls(&self) -> Result<TlsParameters, String> {
        let SmtpServer { host, roots, .. } = &self.server;
        let builder = TlsParameters::builder(host.clone());
        let builder = if roots.is_empty() {
            builder
        } else {
            builder.add_root_certificate(Certificate::from_pem(roots).map_err(told)?)
        };
        builder.build_rustls().map_err(told)
    }

    /// Everything before the message itself: nothing has arrived where this fails.
    async fn announce(
        &self,
        connection: &mut AsyncSmtpConnection,
        envelope: &Envelope,
        bytes: &[u8],
        hand_over: HandOver<'_>,
    ) -> Result<(), Outcome> {
        let parameters = parameters(connection, envelope, bytes)?;
        let mail = Mail::new(envelope.from().cloned(), parameters);
        self.said(connection.command(mail)).await?;
        for to in envelope.to() {
            self.said(connection.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        }
        hand_over.await.map_err(Outcome::TryLater)?;
        self.said(connection.command(Data)).await
    }

    /// The message itself: from its first byte on only the server's own word says what became of it.
    async fn hand_over(&self, mut connection: AsyncSmtpConnection, bytes: &[u8]) -> Outcome {
        match timeout(self.server.timeout, connection.message(bytes)).await {
            Ok(Ok(_)) => {
                let _ = timeout(GOOD_BYE, connection.quit()).await;
                Outcome::Sent
            }
            Ok(Err(error)) if error.is_permanent() => Outcome::Refused(told(error)),
            Ok(Err(error)) if error.is_transient() => Outcome::TryLater(told(error)),
            Ok(Err(error)) => Outcome::Unknown(format!("the connection broke off: {}", told(error))),
            Err(_) => {
                let waited = self.server.timeout.as_secs();
                self.not_before.store(self.clock.now_ms() + PAUSE_MS, Ordering::SeqCst);
                Outcome::Unknown(format!("no answer came in {waited} s after all of it was sent"))
            }
        }
    }

    async fn answer<T>(&self, asked: impl Future<Output = T>) -> Result<T, String> {
        timeout(self.server.timeout, asked).await.map_err(|_| "the mail server does not answer".to_owned())
    }

    /// What the server's word on a step before the message means.
    async fn said<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<(), Outcome> {
        match self.answer(asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() => Err(Outcome::Refused(told(error))),
            Ok(Err(error)) => Err(Outcome::TryLater(told(error))),
            Err(why) => Err(self.unreachable(why)),
        }
    }
}

/// What has to be said of letters beyond ASCII.
fn parameters(
    connection: &AsyncSmtpConnection,
    envelope: &Envelope,
    bytes: &[u8],
) -> Result<Vec<MailParameter>, Outcome> {
    let can = |extension| connection.server_info().supports_feature(extension);
    let mut parameters = Vec::new();
    let addresses = envelope.from().into_iter().chain(envelope.to());
    if !addresses.map(AsRef::<str>::as_ref).all(str::is_ascii) {
        if can(Extension::SmtpUtfEight) {
            parameters.push(MailParameter::SmtpUtfEight)
        } else {
            return Err(Outcome::Refused("the mail server takes ASCII addresses only".to_owned()));
        }
    }
    if !bytes.is_ascii() && can(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(parameters)
}

/// An error for people, without the conversation: a login may stand in that.
fn told(error: Error) -> String {
    let mut text = error.to_string();
    text.truncate(text.char_indices().nth(300).map_or(text.len(), |(end, _)| end));
    text
}

impl Carrier for Smtp {
    fn carry<'a>(&'a self, email: Email, hand_over: HandOver<'a>) -> CarryFuture<'a> {
        Box::pin(async move { self.deliver(&email, hand_over).await })
    }

    fn rests_until(&self) -> Option<i64> {
        let until = self.not_before.load(Ordering::SeqCst);
        Some(until).filter(|until| self.clock.now_ms() < *until)
    }
}
