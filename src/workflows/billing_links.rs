//! Billing links: let a customer see their own billing page, and nobody else's, for a while.
//!
//! A link is exchanged for a session as soon as it is opened. Both are texts that only this server can make: what they
//! are for, whose they are and until when, with a keyed hash over all of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use opentab_input::link_token::{Purpose, Session, TokenError, sign, verify};
use serde_json::json;

use super::by::{By, ChangeError};
use crate::app::App;

/// The setting that holds the key of the hash.
const SECRET: &str = "link_secret";
/// How long a browser keeps a session, and the least that one is valid: a link opened in its last minute still shows
/// a page that can be read in peace.
pub(crate) const SESSION: Duration = Duration::from_secs(12 * 3_600);

/// A link that was just made.
#[derive(Clone, Debug)]
pub struct NewLink {
    /// Whoever has it sees the customer's billing page.
    pub url: String,
    pub expires_at: DateTime<Utc>,
}

/// Why a link or a session opens nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// What was signed does not open it, or no longer.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The database did not answer.
    #[error(transparent)]
    Storage(#[from] sqlx::Error),
}

/// Makes a link to a customer's billing page; the configured lifetime holds where none is given.
///
/// # Errors
/// `Gone` where there is no such customer, whether named by our id or by the user's own.
pub(crate) async fn create(
    app: &App,
    customer: &str,
    lifetime: Option<Duration>,
    by: &By,
) -> Result<NewLink, ChangeError> {
    let customer = app.store.customer_by_any_id(customer).await?.ok_or(ChangeError::Gone)?;
    let expires_at = app.clock.now() + lifetime.unwrap_or(app.config.link_lifetime);
    let token = sign(&secret(app).await?, Purpose::Link, &customer.id, expires_at, &nonce(app));
    let mut tx = app.store.db.begin().await?;
    let detail = json!({ "expires_at": expires_at });
    by.note(app, &mut tx, "billing_link.created", &customer.id, detail).await?;
    tx.commit().await?;
    Ok(NewLink { url: format!("{}/billing/{token}", app.config.public_url), expires_at })
}

/// Opens a link: answers a session token for the customer's cookie. It is valid for as long as the link itself would
/// open the page again.
pub(crate) async fn open(app: &App, token: &str) -> Result<String, LinkError> {
    let secret = secret(app).await?;
    let link = verify(&secret, Purpose::Link, token, app.clock.now())?;
    if app.store.customer(&link.customer_id).await?.is_none() {
        return Err(TokenError::Invalid.into());
    }
    let expires_at = link.expires_at.max(app.clock.now() + SESSION);
    Ok(sign(&secret, Purpose::Session, &link.customer_id, expires_at, &nonce(app)))
}

/// Whose session a cookie holds.
pub(crate) async fn session(app: &App, token: &str) -> Result<Session, LinkError> {
    Ok(verify(&secret(app).await?, Purpose::Session, token, app.clock.now())?)
}

async fn secret(app: &App) -> sqlx::Result<String> {
    match app.store.setting(SECRET).await? {
        Some(secret) => Ok(secret),
        None => app.store.setting_or(SECRET, &app.ids.new_secret()).await,
    }
}

/// Two links made in the same millisecond differ.
fn nonce(app: &App) -> String {
    app.ids.new_secret()[..16].to_owned()
}
