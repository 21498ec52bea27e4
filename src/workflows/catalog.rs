//! Catalog: what is counted and what it costs. Meters are relabelled, prices archived; neither ever changes otherwise.

use serde_json::json;

use super::by::{By, ChangeError};
use crate::app::App;
use crate::clock::prefix;
use crate::store::meters::{self, Meter};
use crate::store::prices::{self, Price};
use opentab_billing::{Aggregation, PriceTerms};

/// A meter that is not there yet.
#[derive(Clone, Debug)]
pub struct NewMeter {
    /// What usage events call it; unique, and fixed from then on.
    pub event_name: String,
    /// What people call it; can be changed later.
    pub display_name: String,
    /// How quantities of a day and cycle combine; fixed from then on.
    pub aggregation: Aggregation,
    /// Decimals that a quantity may have, 0 to 9; fixed from then on.
    pub decimals: u8,
    /// What one unit is called on pages; may be empty, and can be changed later.
    pub unit_label: String,
}

/// Creates a meter. A repeated request answers the one that the first made.
pub async fn create_meter(app: &App, new: NewMeter, by: &By) -> Result<Meter, ChangeError> {
    let meter = Meter {
        no: 0,
        id: by.new_id(app, prefix::METER),
        event_name: new.event_name,
        display_name: new.display_name,
        aggregation: new.aggregation,
        decimals: new.decimals,
        unit_label: new.unit_label,
        created_at: app.clock.now(),
    };
    let mut tx = app.store.db.begin().await?;
    if let Some(made_before) = meters::read(&mut tx, &meter.id).await? {
        return Ok(made_before);
    }
    if !meters::insert(&mut tx, &meter).await? {
        return Err(ChangeError::Taken("event_name"));
    }
    let detail = json!({ "event_name": meter.event_name, "aggregation": meter.aggregation.as_str() });
    by.note(app, &mut tx, "meter.created", &meter.id, detail).await?;
    tx.commit().await?;
    Ok(meter)
}

/// Changes what people call a meter and its unit.
pub(crate) async fn relabel_meter(
    app: &App,
    id: &str,
    display_name: Option<String>,
    unit_label: Option<String>,
    by: &By,
) -> Result<Meter, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let mut meter = meters::read(&mut tx, id).await?.ok_or(ChangeError::Gone)?;
    meter.display_name = display_name.unwrap_or(meter.display_name);
    meter.unit_label = unit_label.unwrap_or(meter.unit_label);
    meters::rename(&mut tx, &meter).await?;
    let detail = json!({ "display_name": meter.display_name, "unit_label": meter.unit_label });
    by.note(app, &mut tx, "meter.updated", id, detail).await?;
    tx.commit().await?;
    Ok(meter)
}

/// Creates a price from terms that hold. A repeated request answers the one that the first made.
pub async fn create_price(
    app: &App,
    name: String,
    meter_id: Option<String>,
    terms: PriceTerms,
    by: &By,
) -> Result<Price, ChangeError> {
    let id = by.new_id(app, prefix::PRICE);
    let price = Price { id, name, meter_id, terms, created_at: app.clock.now(), archived_at: None };
    let mut tx = app.store.db.begin().await?;
    if let Some(made_before) = prices::read(&mut tx, &price.id).await? {
        return Ok(made_before);
    }
    if !prices::insert(&mut tx, &price).await? {
        return Err(ChangeError::Taken("id"));
    }
    by.note(app, &mut tx, "price.created", &price.id, json!({ "terms": price.terms })).await?;
    tx.commit().await?;
    Ok(price)
}

/// Archives a price: services that have it keep it, new ones cannot take it.
pub(crate) async fn archive_price(app: &App, id: &str, by: &By) -> Result<Price, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let mut price = prices::read(&mut tx, id).await?.ok_or(ChangeError::Gone)?;
    if price.archived_at.is_some() {
        return Ok(price);
    }
    let now = app.clock.now();
    prices::archive(&mut tx, id, now).await?;
    by.note(app, &mut tx, "price.archived", id, json!({})).await?;
    tx.commit().await?;
    price.archived_at = Some(now);
    Ok(price)
}
