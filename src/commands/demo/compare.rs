//! Compare: each finalized invoice at Stripe beside the statement of its cycle, made anew from the stored usage.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use super::company::{Company, money};
use super::world::World;
use crate::commands::out::say;
use crate::store::Invoice;
use crate::store::customers::Customer;
use crate::workflows::current::cycle_of;
use crate::workflows::statement::{load_services, load_usage};
use opentab_billing::{ServiceTerms, owed};

/// Prints both sides line by line. 0 only if every line and every total agrees to the minor unit.
pub(super) async fn compare(world: &World, company: &Company) -> anyhow::Result<ExitCode> {
    let mut agree = true;
    for buyer in &company.customers {
        let customer = world.app.store.customer(&buyer.id).await?.context("the customer is gone")?;
        for invoice in world.app.store.invoices_of(&buyer.id, "~", 100).await? {
            if invoice.sealed_at.is_some() {
                agree &= compare_invoice(world, &customer, &invoice).await?;
            }
        }
    }
    say!(
        "\n{}",
        if agree {
            "Every invoice equals its statement."
        } else {
            "THE INVOICES DIFFER FROM THE STATEMENTS."
        }
    );
    std::fs::remove_dir_all(&world.folder).ok();
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn compare_invoice(world: &World, customer: &Customer, invoice: &Invoice) -> anyhow::Result<bool> {
    let statement = statement(world, customer, invoice).await?;
    let stripe_id = invoice.stripe_invoice_id.as_deref().context("a sealed invoice is at Stripe")?;
    let at_stripe = world.ask_stripe(&format!("/v1/invoices/{stripe_id}")).await?;
    let lines = world.ask_stripe(&format!("/v1/invoices/{stripe_id}/lines?limit=100")).await?;
    let lines = by_item(&lines);
    say!("\n{}  {}  {}", customer.name, at_stripe["number"].as_str().unwrap_or("-"), stripe_id);
    say!("  {:>16}  {:>16}  ", "statement", "Stripe");
    let mut agree = lines.keys().all(|key| statement.contains_key(key));
    for (key, (owed, what)) in &statement {
        let held = lines.get(key).copied().unwrap_or(0);
        agree &= *owed == held;
        say!("  {:>16}  {:>16}  {what}", money(invoice, *owed)?, money(invoice, held)?);
    }
    let owed: i64 = statement.values().map(|(owed, _)| owed).sum();
    let held = at_stripe["total"].as_i64().context("an invoice has a total")?;
    agree &= owed == held;
    let verdict = if agree { "equal" } else { "DIFFERENT" };
    say!("  {:>16}  {:>16}  total: {verdict}", money(invoice, owed)?, money(invoice, held)?);
    Ok(agree)
}

/// What is owed for the invoice's cycle, by item key.
async fn statement(
    world: &World,
    customer: &Customer,
    invoice: &Invoice,
) -> anyhow::Result<BTreeMap<String, (i64, String)>> {
    let cycle = cycle_of(customer, invoice)?;
    let services = load_services(&world.app, customer).await?;
    let terms: Vec<ServiceTerms<'_>> = services.iter().map(|service| service.terms()).collect();
    let usage = load_usage(&world.app, customer, &cycle).await?;
    let lines = owed(&cycle, &terms, &usage)?;
    let line = |line: opentab_billing::OwedLine| {
        let quantity = line.quantity.map(|quantity| format!(": {} {}", quantity.grouped(), line.unit_label));
        (line.key.to_string(), (line.owed, format!("{}{}", line.name, quantity.unwrap_or_default())))
    };
    Ok(lines.into_iter().map(line).collect())
}

fn by_item(lines: &Value) -> BTreeMap<String, i64> {
    let lines = lines["data"].as_array().into_iter().flatten();
    let item = |line: &Value| {
        let key = line["metadata"]["opentab_item"].as_str().unwrap_or("a line that is not ours");
        (key.to_owned(), line["amount"].as_i64().unwrap_or(0))
    };
    lines.map(item).collect()
}
