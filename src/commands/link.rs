//! Link: make a link to a customer's billing page.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::open;
use crate::app::App;
use crate::commands::out::say;
use crate::config::{Config, duration};
use crate::workflows::billing_links::{self, NewLink};
use crate::workflows::by::{By, ChangeError};

/// Make a link to a customer's billing page
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// ot_cus_…, or your own id
    customer: String,
    /// How long it can be opened, such as 7d; OPENTAB_LINK_LIFETIME where it is not given
    #[arg(long, value_parser = duration)]
    lifetime: Option<Duration>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Prints a new link.
pub async fn link(config: Config, args: LinkArgs) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match create(&app, &args.customer, args.lifetime).await {
        Ok(link) => say!("{}", show(&link, args.json)),
        Err(ChangeError::Gone) => anyhow::bail!("there is no customer {}", args.customer),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a link for the customer with this id, ours or the user's own. The configured lifetime holds where none is given.
pub async fn create(app: &App, customer: &str, lifetime: Option<Duration>) -> Result<NewLink, ChangeError> {
    billing_links::create(app, customer, lifetime, &By::operator()).await
}

/// The link alone, so that it can be piped on, or with its end as JSON.
pub fn show(link: &NewLink, as_json: bool) -> String {
    if as_json {
        json!({ "url": link.url, "expires_at": link.expires_at }).to_string()
    } else {
        link.url.clone()
    }
}
