//! Bounce: an e-mail came back. Nothing more is sent there by itself where that is for good.

use serde_json::json;

use super::by::{By, ChangeError};
use super::email::storage;
use super::notice;
use crate::app::App;
use crate::store::{Reach, StoredEmail, Tx};

/// The incident of an e-mail that came back.
pub(crate) const BOUNCED: &str = "email_bounced";
/// Why nothing is sent to an address.
pub(super) const GONE: &str = "e-mail to their address has come back for good";

/// For how long an address does not take e-mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BounceKind {
    /// For good: there is no such mailbox.
    Hard,
    /// For now: it is full, or was not reached in days.
    Soft,
}

impl BounceKind {
    /// As the API and the audit name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            BounceKind::Hard => "hard",
            BounceKind::Soft => "soft",
        }
    }
}

/// Takes in that an e-mail came back, by its Message-ID, with or without angle brackets. Once more changes nothing.
///
/// # Errors
/// `Gone` where no e-mail of ours has this Message-ID.
pub(crate) async fn bounced(
    app: &App,
    message_id: &str,
    kind: BounceKind,
    reason: &str,
    by: &By,
) -> Result<StoredEmail, ChangeError> {
    let message_id = message_id.trim().trim_start_matches('<').trim_end_matches('>');
    // Ours begin with the e-mail's own id.
    let id = message_id.split('@').next().unwrap_or_default();
    let mut tx = app.store.db.begin().await?;
    let found = tx.email(id).await?.filter(|email| email.message_id == message_id);
    let email = found.ok_or(ChangeError::Gone)?;
    let is_new = tx.email_bounced(id, reason, app.clock.now_ms()).await?;
    let flagged = kind == BounceKind::Hard && flag(&mut tx, &email).await?;
    if is_new {
        tell_operator(app, &mut tx, &email, kind, reason).await?;
    }
    if is_new || flagged {
        let detail = json!({ "kind": kind.as_str(), "reason": reason, "was": email.state });
        by.note(app, &mut tx, "email.bounced", id, detail).await?;
    }
    tx.commit().await?;
    app.store.email(id).await?.ok_or(ChangeError::Gone)
}

/// Where the customer still has the address that it was sent to.
async fn flag(tx: &mut Tx, email: &StoredEmail) -> sqlx::Result<bool> {
    let Some(customer_id) = &email.customer_id else { return Ok(false) };
    match tx.reach(customer_id).await? {
        Reach::At(address) if address == email.recipient => {
            tx.address_bounced(customer_id, Some(&address)).await
        }
        _ => Ok(false),
    }
}

async fn tell_operator(
    app: &App,
    tx: &mut Tx,
    email: &StoredEmail,
    kind: BounceKind,
    reason: &str,
) -> Result<(), ChangeError> {
    let now = app.clock.now_ms();
    for doubt in [super::email::UNKNOWN, super::email::FAILED] {
        tx.resolve_incident(doubt, &email.id, now).await?;
    }
    let message = match kind {
        BounceKind::Hard => format!(
            "This e-mail ({}) came back for good: {reason}. Nothing more is sent to that address by itself. Set another one \
             on the customer, then `opentab emails resend {}`.",
            email.kind, email.id
        ),
        BounceKind::Soft => format!(
            "This e-mail ({}) came back: {reason}. `opentab emails resend {}` tries once more.",
            email.kind, email.id
        ),
    };
    let told = match email.customer_id {
        Some(_) => notice::report(app, tx, BOUNCED, &email.id, &message).await,
        // That the operator's own e-mail comes back is no reason to write them another.
        None => notice::report_quietly(app, tx, BOUNCED, &email.id, &message).await,
    };
    told.map_err(storage)
}
