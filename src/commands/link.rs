//! Link: make a link to a customer's billing page.

use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::workflows::billing_links::{self, NewLink};
use crate::workflows::by::{By, ChangeError};

/// Makes a link for the customer with this id, ours or the user's own. The configured lifetime holds where none is given.
pub async fn create(app: &App, customer: &str, lifetime: Option<Duration>) -> Result<NewLink, ChangeError> {
    billing_links::create(app, customer, lifetime, &By::operator()).await
}

/// The link alone, so that it can be piped on, or with its end as JSON.
pub fn show(link: &NewLink, as_json: bool) -> String {
    match as_json {
        true => json!({ "url": link.url, "expires_at": link.expires_at }).to_string(),
        false => link.url.clone(),
    }
}
