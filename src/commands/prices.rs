//! `opentab prices`: say from the shell what things cost.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::open;
use crate::app::App;
use crate::commands::out::say;
use crate::config::Config;
use crate::http::prices::CreatePrice;
use crate::http::problem::Problem;
use crate::store::Page;
use crate::store::prices::{Price, PriceFilter};
use crate::workflows::by::By;
use crate::workflows::catalog;

#[derive(Debug, Subcommand)]
pub(super) enum PricesCommand {
    /// Create a price, unless there is one with this name and these terms
    Create {
        /// What POST /v1/prices takes, such as '{"name":"Basic","currency":"usd","model":"flat","flat_amount":4900}'
        price: String,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// List the prices that new services may have, newest first
    List {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
}

/// 0: done, or it had been. An error where another price has the name.
pub(super) async fn prices(config: Config, command: PricesCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    match command {
        PricesCommand::Create { price, json } => print(&create(&app, &price).await?, json),
        PricesCommand::List { json } => active(&app).await?.iter().for_each(|price| print(price, json)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(app: &App, text: &str) -> anyhow::Result<Price> {
    let body: CreatePrice = match serde_json::from_str(text) {
        Ok(body) => body,
        Err(error) => bail!("this is not what POST /v1/prices takes: {error}"),
    };
    let new = body.read(app).await.map_err(told)?;
    // A list of customers names prices by their names.
    if let Some(known) = active(app).await?.into_iter().find(|price| price.name == new.name) {
        if known.terms == new.terms && known.meter_id == new.meter_id {
            return Ok(known);
        }
        bail!(
            "{} is called `{}` too and has other terms; prices never change: choose another name",
            known.id,
            known.name
        );
    }
    match catalog::create_price(app, new.name, new.meter_id, new.terms, &By::operator()).await {
        Ok(price) => Ok(price),
        Err(error) => Err(told(error.into())),
    }
}

fn told(problem: Problem) -> anyhow::Error {
    let each = problem.errors.iter().map(|error| format!("; {}: {}", error.pointer, error.detail));
    anyhow::anyhow!("{}{}", problem.detail, each.collect::<String>())
}

async fn active(app: &App) -> anyhow::Result<Vec<Price>> {
    let filter = PriceFilter { active: Some(true), ..PriceFilter::default() };
    let mut page = Page { limit: 500, after: String::new(), before: String::new() };
    let mut all = Vec::new();
    loop {
        let (prices, has_more) = app.store.prices(&page, &filter).await?;
        page.after = prices.last().map(|last| last.id.clone()).unwrap_or_default();
        all.extend(prices);
        if !has_more {
            return Ok(all);
        }
    }
}

fn print(price: &Price, json: bool) {
    let terms = &price.terms;
    if json {
        say!(
            "{}",
            serde_json::json!({ "id": price.id, "name": price.name, "meter": price.meter_id, "terms": terms })
        )
    } else {
        say!("{}  {}  {}", price.id, price.name, terms.describe())
    }
}
