//! The made-up company: what it sells, to whom, and how much they use.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::world::World;
use crate::app::App;
use crate::commands::out::say;
use crate::store::Invoice;
use opentab_billing::{Currency, Money};

/// What is counted: event name, how, decimals, unit.
const METERS: &[(&str, &str, u8, &str)] = &[
    ("map_loads", "sum", 0, "map loads"),
    ("traffic", "sum", 3, "GB"),
    ("route_requests", "count", 0, "routes"),
    ("peak_vehicles", "max", 0, "vehicles"),
    ("stored_tiles", "last", 0, "tiles"),
    ("active_users", "unique", 0, "users"),
];

/// Who buys: name, currency, time zone, how they pay.
const CUSTOMERS: &[(&str, &str, &str, &str)] = &[
    ("Aurora Courier", "usd", "UTC", "charge_automatically"),
    ("Borealis Freight", "usd", "America/New_York", "charge_automatically"),
    ("Cobalt Games", "usd", "Europe/Berlin", "charge_automatically"),
    ("Delta Outdoor", "eur", "Europe/Paris", "send_invoice"),
    ("Edo Railways", "jpy", "Asia/Tokyo", "charge_automatically"),
    ("Fern & Field", "usd", "Australia/Sydney", "charge_automatically"),
];

/// A customer as the story knows it.
pub(super) struct Buyer {
    pub id: String,
    pub name: &'static str,
    /// Opens their billing page.
    pub link: String,
    meters: Vec<&'static str>,
}

/// The company and its customers.
pub(super) struct Company {
    pub customers: Vec<Buyer>,
    app: App,
    /// Seeded: every demo tells the same story.
    chance: Mutex<StdRng>,
    events: AtomicUsize,
}

impl Company {
    /// Sets everything up through the API, as a user would.
    pub(super) async fn found(world: &World) -> anyhow::Result<Company> {
        for (event_name, aggregation, decimals, unit) in METERS {
            let meter = json!({
                "event_name": event_name, "display_name": event_name.replace('_', " "),
                "aggregation": aggregation, "decimals": decimals, "unit_label": unit,
            });
            world.post("/v1/meters", &meter).await?;
        }
        let mut customers = Vec::new();
        for (at, (name, currency, time_zone, collection)) in CUSTOMERS.iter().enumerate() {
            customers.push(sign_up(world, at, name, currency, time_zone, collection).await?);
        }
        let chance = Mutex::new(StdRng::seed_from_u64(7));
        Ok(Company { customers, app: world.app.clone(), chance, events: AtomicUsize::new(0) })
    }

    /// Everybody uses maps for a while; the events go to the API in one batch.
    pub(super) async fn use_maps(
        &self,
        world: &World,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let events: Vec<Value> =
            self.customers.iter().flat_map(|buyer| self.usage_of(buyer, from, to)).collect();
        let outcome = world.post("/v1/usage", &json!({ "events": events })).await?;
        let accepted = outcome["accepted"].as_u64().unwrap_or(0) as usize;
        anyhow::ensure!(accepted == events.len(), "usage was not accepted: {outcome}");
        Ok(())
    }

    fn usage_of(&self, buyer: &Buyer, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Value> {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for meter in &buyer.meters {
            for _ in 0..chance.random_range(1..=4) {
                let no = self.events.fetch_add(1, Ordering::Relaxed);
                let at = from + (to - from) * chance.random_range(0..1_000) / 1_000;
                let mut event = json!({
                    "id": format!("demo-{no:07}"), "customer": buyer.id, "meter": meter, "timestamp": at.to_rfc3339(),
                });
                match *meter {
                    "active_users" => event["value"] = json!(format!("user-{}", chance.random_range(0..90))),
                    "route_requests" => {}
                    "traffic" => {
                        event["quantity"] = json!(format!(
                            "{}.{:03}",
                            chance.random_range(0..9),
                            chance.random_range(0..1_000)
                        ))
                    }
                    "stored_tiles" => event["quantity"] = json!(chance.random_range(20_000..30_000)),
                    "peak_vehicles" => event["quantity"] = json!(chance.random_range(10..60)),
                    _ => event["quantity"] = json!(chance.random_range(50..900)),
                }
                events.push(event);
            }
        }
        events
    }

    /// Ids of the invoices that are finalized by now.
    pub(super) async fn finalized(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for buyer in &self.customers {
            let invoices = self.app.store.invoices_of(&buyer.id, "~", 1_000).await?;
            ids.extend(
                invoices.into_iter().filter(|invoice| invoice.sealed_at.is_some()).map(|invoice| invoice.id),
            );
        }
        Ok(ids)
    }

    /// Whether each customer has a finalized invoice by now.
    pub(super) async fn everybody_billed(&self) -> anyhow::Result<bool> {
        for buyer in &self.customers {
            let invoices = self.app.store.invoices_of(&buyer.id, "~", 1_000).await?;
            if invoices.iter().all(|invoice| invoice.sealed_at.is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells of the invoices that were finalized since; answers whether there were any.
    pub(super) async fn tell(&self, world: &World, before: &BTreeSet<String>) -> anyhow::Result<bool> {
        let mut told = false;
        for buyer in &self.customers {
            for invoice in self.app.store.invoices_of(&buyer.id, "~", 3).await? {
                if invoice.sealed_at.is_some() && !before.contains(&invoice.id) {
                    self.tell_invoice(world, buyer, &invoice).await?;
                    told = true;
                }
            }
        }
        Ok(told)
    }

    async fn tell_invoice(&self, world: &World, buyer: &Buyer, invoice: &Invoice) -> anyhow::Result<()> {
        let current =
            self.app.store.current_invoice(&buyer.id).await?.context("there is always a current invoice")?;
        say!(
            "  {}  {:<18} cycle {} closed: final sync, finalized as {} for {} ({})",
            self.app.clock.now().format("%b %d %H:%M"),
            buyer.name,
            invoice.cycle,
            invoice.number.as_deref().unwrap_or("-"),
            money(invoice, invoice.total)?,
            invoice.state,
        );
        say!(
            "                {:<18} signed webhook invoice.finalized taken once; next draft {} is open for {}",
            "",
            current.stripe_invoice_id.as_deref().unwrap_or("pending"),
            current.cycle
        );
        if let Some(id) = &invoice.stripe_invoice_id {
            say!("                {:<18} {}/v1/invoices/{id}", "", world.stripe_base);
        }
        Ok(())
    }

    /// One line a day: how much was used, and what stands on the drafts.
    pub(super) async fn tell_day(&self, world: &World) -> anyhow::Result<()> {
        let mut tabs = Vec::new();
        for buyer in &self.customers {
            if let Some(invoice) = self.app.store.current_invoice(&buyer.id).await? {
                tabs.push(money(&invoice, invoice.total)?);
            }
        }
        let calls = world.sandbox.calls();
        let writes = calls.iter().filter(|call| call.method != "GET").count();
        say!(
            "  {}  {:>6} events · on the drafts: {} · {writes} writes to Stripe, {} webhooks",
            self.app.clock.now().format("%b %d"),
            self.events.load(Ordering::Relaxed),
            tabs.join(", "),
            world.webhooks.load(Ordering::Relaxed),
        );
        Ok(())
    }
}

/// An amount on an invoice, for people.
pub(super) fn money(invoice: &Invoice, minor_units: i64) -> anyhow::Result<String> {
    Ok(Money::new(minor_units, Currency::parse(&invoice.currency)?).to_string())
}

async fn sign_up(
    world: &World,
    at: usize,
    name: &'static str,
    currency: &str,
    time_zone: &str,
    collection: &str,
) -> anyhow::Result<Buyer> {
    let mut customer = json!({
        "name": name, "currency": currency, "time_zone": time_zone, "collection_method": collection,
        "email": format!("billing@{}.example", name.split(' ').next().unwrap_or(name).to_lowercase()),
    });
    if collection == "charge_automatically" {
        // They are Stripe's customers already, with a card; the others are created there on the first sync.
        customer["stripe_customer_id"] = json!(world.customer_with_card(name).await?);
    }
    let customer = world.post("/v1/customers", &customer).await?;
    let id = customer["id"].as_str().context("a customer has an id")?.to_owned();
    let mut meters = Vec::new();
    for (meter, mut price) in prices(at) {
        price["currency"] = json!(currency);
        if let Some(meter) = meter {
            price["meter"] = json!(meter);
            meters.push(meter);
        }
        let price = world.post("/v1/prices", &price).await?;
        world.post("/v1/services", &json!({ "customer": id, "price": price["id"] })).await?;
    }
    let link = world.post(&format!("/v1/customers/{id}/billing_links"), &json!({})).await?;
    let link = link["url"].as_str().context("a link has a url")?.to_owned();
    Ok(Buyer { id, name, link, meters })
}

/// What each customer buys: every price model, between them.
fn prices(customer: usize) -> Vec<(Option<&'static str>, Value)> {
    let per_unit = |name: &str, cents: &str, included: &str| json!({ "name": name, "model": "per_unit", "unit_amount_decimal": cents, "included_quantity": included });
    let tiers = |first: &str, rest: &str| json!([{ "up_to": "10000", "unit_amount_decimal": first }, { "up_to": "inf", "unit_amount_decimal": rest }]);
    let flat = |name: &str, amount: i64| json!({ "name": name, "model": "flat", "flat_amount": amount });
    match customer {
        0 => vec![
            (Some("map_loads"), per_unit("Map loads", "0.25", "5000")),
            (None, flat("Platform fee", 4_900)),
        ],
        1 => vec![
            (
                Some("map_loads"),
                json!({ "name": "Map loads", "model": "graduated", "tiers": tiers("0.4", "0.15") }),
            ),
            (Some("peak_vehicles"), per_unit("Tracked vehicles, at peak", "900", "0")),
        ],
        2 => vec![
            (
                Some("map_loads"),
                json!({ "name": "Map loads", "model": "volume", "tiers": tiers("0.3", "0.2") }),
            ),
            (Some("active_users"), per_unit("Active users", "45", "25")),
        ],
        3 => vec![(
            Some("route_requests"),
            json!({ "name": "Routes, in packs of 100", "model": "package", "package_size": "100", "package_amount": 1_500, "minimum_amount": 5_000 }),
        )],
        4 => vec![
            (Some("map_loads"), per_unit("Map loads", "0.3", "0")),
            (None, flat("Station licence", 120_000)),
        ],
        _ => vec![
            (Some("stored_tiles"), per_unit("Stored tiles", "0.0375", "0")),
            (Some("traffic"), per_unit("Traffic", "9", "10")),
        ],
    }
}
