//! `opentab emails`: look at what was sent to whom, send again what did not arrive, and read before it goes out.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::month::month;
use super::open;
use super::work_off::{until_none_is_due, with_workers};
use crate::app::App;
use crate::clock::from_ms;
use crate::commands::out::say;
use crate::config::Config;
use crate::mailer::KINDS;
use crate::store::{EMAIL_STATES, EmailFilter, Invoice, Page, StoredEmail};
use crate::workflows::by::By;
use crate::workflows::email::{self, Resent, Undelivered};

const SEND_EXIT_CODES: &str = "Exit codes: 0 everything is sent, 1 something is not, and is counted, 2 it could not run to \
                               the end; again is safe: nothing is sent twice.";

#[derive(Debug, Subcommand)]
pub(super) enum EmailsCommand {
    /// List e-mails, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// queued, sending, sent, failed, unknown, bounced or canceled
        #[arg(long, value_parser = EMAIL_STATES)]
        status: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Send what is queued, now; for those who run no server
    #[command(after_help = SEND_EXIT_CODES)]
    Send {
        /// Count only e-mails of this month, such as 2026-11
        #[arg(long, value_parser = month)]
        month: Option<String>,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Send an e-mail again that failed, came back or whose ending is unknown, under the same Message-ID
    Resend {
        /// ot_eml_…
        #[arg(conflicts_with_all = ["month", "all", "status"], required_unless_present = "month")]
        id: Option<String>,
        /// Everything of --month that was certainly not delivered and has an address that takes e-mail. So without --status
        #[arg(long, requires = "month")]
        all: bool,
        /// Only what has this status: failed, bounced, or unknown, which may be the second one that somebody gets
        #[arg(long, conflicts_with = "all", value_parser = ["failed", "bounced", "unknown"])]
        status: Option<String>,
        #[command(flatten)]
        which: Which,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Show what an e-mail would say, without sending anything
    Preview {
        /// Such as invoice or payment_failed
        kind: String,
        /// ot_cus_… or your own id
        #[arg(long)]
        customer: String,
        /// ot_inv_…; the newest one that is finalized where it is not given
        #[arg(long)]
        invoice: Option<String>,
        /// The HTML in place of the text
        #[arg(long)]
        html: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Such as invoice or payment_failed
    #[arg(long)]
    kind: Option<String>,
    /// Such as 2026-11
    #[arg(long, value_parser = month)]
    month: Option<String>,
}

impl Which {
    fn filter(self, status: Option<String>) -> EmailFilter {
        EmailFilter {
            state: status.unwrap_or_default(),
            kind: self.kind.unwrap_or_default(),
            month: self.month.unwrap_or_default(),
            customer_id: String::new(),
        }
    }
}

/// 0: done. 2: it cannot be done, and why.
pub(super) async fn emails(config: Config, command: EmailsCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        EmailsCommand::List { which, status, limit, json } => {
            let page = Page { limit: limit.max(0), after: String::new(), before: String::new() };
            for email in app.store.emails(&page, &which.filter(status)).await?.0 {
                say!("{}", if json { as_json(&email) } else { as_text(&email) });
            }
        }
        EmailsCommand::Send { month, json } => return send(&app, &month.unwrap_or_default(), json).await,
        EmailsCommand::Resend { id: Some(id), json, .. } => {
            match email::resend(&app, &id, &By::operator()).await {
                Ok(Resent::Queued(email)) if json => say!("{}", as_json(&email)),
                Ok(Resent::Queued(email)) => say!("{} is queued; a running server sends it.", email.id),
                Ok(Resent::NotNow(email)) => bail!("{id} is {}: it was sent, or is on its way", email.state),
                Err(error) => return Err(error).with_context(|| format!("{id} cannot be sent again")),
            }
        }
        EmailsCommand::Resend { id: None, status, which, json, .. } => {
            let undelivered = Undelivered::of_state(status.as_deref().unwrap_or_default());
            let filter = which.filter(status);
            let queued = email::resend_all(&app, &filter, undelivered, &By::operator()).await?;
            if json {
                say!("{}", serde_json::json!({ "queued": queued }))
            } else {
                say!("{queued} e-mails are queued; a running server sends them.")
            }
        }
        EmailsCommand::Preview { kind, customer, invoice, html } => {
            preview(&app, &kind, &customer, invoice.as_deref(), html).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn send(app: &App, month: &str, json: bool) -> anyhow::Result<ExitCode> {
    with_workers(app, &[email::SEND], until_none_is_due(app, &[email::SEND], "e-mails")).await?;
    let states: BTreeMap<String, i64> = app.store.emails_by_state(month, "").await?.into_iter().collect();
    if json {
        say!("{}", serde_json::json!(states))
    } else {
        let each: Vec<String> = states.iter().map(|(state, times)| format!("{times} {state}")).collect();
        say!("E-mails: {}", if each.is_empty() { "none".to_owned() } else { each.join(", ") });
    }
    let all_sent = states.keys().all(|state| matches!(state.as_str(), "sent" | "canceled"));
    Ok(if all_sent { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn preview(
    app: &App,
    kind: &str,
    customer: &str,
    invoice: Option<&str>,
    html: bool,
) -> anyhow::Result<()> {
    if !KINDS.iter().any(|(name, _)| *name == kind) {
        let kinds: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        bail!("there is no e-mail of kind {kind}; there are {}", kinds.join(", "));
    }
    let found = app.store.customer_by_any_id(customer).await?;
    let customer = found.with_context(|| format!("there is no customer {customer}"))?;
    let invoice = match invoice {
        Some(id) => {
            let found = app.store.invoice(id).await?.filter(|invoice| invoice.customer_id == customer.id);
            Some(found.with_context(|| format!("{} has no invoice {id}", customer.name))?)
        }
        None => newest(app, &customer.id).await?,
    };
    let said = email::preview(app, kind, &customer, invoice.as_ref()).await.map_err(anyhow::Error::msg)?;
    if html {
        say!("{}", said.html)
    } else {
        say!("Subject: {}\n\n{}", said.subject, said.text.trim_end())
    }
    Ok(())
}

/// The newest invoice of a customer that is finalized.
async fn newest(app: &App, customer_id: &str) -> sqlx::Result<Option<Invoice>> {
    // Greater than every id of an invoice, in every collation. Beside the draft, the first is a finalized one as a rule.
    let newest = app.store.invoices_of(customer_id, "ot_inv_z", 20).await?;
    Ok(newest.into_iter().find(|invoice| invoice.sealed_at.is_some()))
}

fn as_text(email: &StoredEmail) -> String {
    format!(
        "{}  {}  {:<8}  {:<24}  {}  {}  {}",
        from_ms(email.created_at).format("%Y-%m-%d %H:%M:%S"),
        email.id,
        email.state,
        email.kind,
        email.subject,
        email.recipient,
        email.last_error.as_deref().unwrap_or(""),
    )
}

fn as_json(email: &StoredEmail) -> String {
    serde_json::json!({
        "id": email.id,
        "kind": email.kind,
        "status": email.state,
        "carrier": email.carrier,
        "subject": email.subject,
        "customer": email.customer_id,
        "invoice": email.invoice_id,
        "recipient": email.recipient,
        "message_id": email.message_id,
        "month": email.month,
        "attempts": email.attempts,
        "last_error": email.last_error,
        "created_at": from_ms(email.created_at),
        "sent_at": email.sent_at.map(from_ms),
        "bounced_at": email.bounced_at.map(from_ms),
    })
    .to_string()
}
