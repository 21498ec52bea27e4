//! Services: attach a price to a customer from a day, and end it on a day.

use chrono::{DateTime, Days, Months, NaiveDate, Utc};
use serde_json::json;

use super::by::{By, ChangeError};
use super::customers::mark_changed;
use crate::app::App;
use crate::clock::prefix;
use crate::store::Tx;
use crate::store::customers::{self, Customer};
use crate::store::prices::{self, Price};
use crate::store::services::{self, Service};

/// How far back a service may begin, in months. Each month is a billing cycle that is computed and billed.
const FURTHEST_BACK: u32 = 36;

/// A service that is not there yet.
#[derive(Clone, Debug)]
pub struct NewService {
    /// The customer who gets the service, `ot_cus_…`.
    pub customer_id: String,
    /// The price it is billed by, `ot_prc_…`, in the customer's currency and not archived.
    pub price_id: String,
    /// A local day of the customer; today where it is absent.
    pub from: Option<NaiveDate>,
    /// The first local day without the service; None means no end.
    pub until: Option<NaiveDate>,
}

/// Attaches a price to a customer. A day in the past bills the cycles since then.
pub async fn create(app: &App, new: NewService, by: &By) -> Result<Service, ChangeError> {
    let now = app.clock.now();
    let id = by.new_id(app, prefix::SERVICE);
    let mut tx = app.store.db.begin().await?;
    if let Some(made_before) = services::read(&mut tx, &id).await? {
        return Ok(made_before);
    }
    let customer = customers::lock(&mut tx, &new.customer_id).await?.ok_or(ChangeError::Gone)?;
    let price = prices::read(&mut tx, &new.price_id).await?.ok_or(ChangeError::Gone)?;
    let service = begun(id, &new, &customer, &price, now)?;
    services::insert(&mut tx, &service).await?;
    mark_changed(&mut tx, &customer, service.from, now).await?;
    let detail = json!({
        "customer": customer.id, "price": price.id, "from": service.from, "until": service.until
    });
    by.note(app, &mut tx, "service.created", &service.id, detail).await?;
    tx.commit().await?;
    Ok(service)
}

/// A service as it will be stored, where it may be.
pub(super) fn begun(
    id: String,
    new: &NewService,
    customer: &Customer,
    price: &Price,
    now: DateTime<Utc>,
) -> Result<Service, ChangeError> {
    let refused = |pointer, code, detail: String| Err(ChangeError::Refused(pointer, code, detail));
    if price.archived_at.is_some() {
        return refused("/price", "archived", format!("{} is archived", price.id));
    }
    if price.terms.currency != customer.currency {
        return Err(ChangeError::CurrencyMismatch {
            price: price.terms.currency.as_str().to_owned(),
            customer: customer.currency.as_str().to_owned(),
        });
    }
    let today = customer.cycle_rule().day_of(now);
    let from = new.from.unwrap_or(today);
    within_reach("/from", from, today)?;
    if let Some(until) = new.until {
        within_reach("/until", until, today)?;
        if until < from {
            return refused("/until", "before_from", format!("must not be before {from}"));
        }
    }
    Ok(Service {
        id,
        customer_id: customer.id.clone(),
        price_id: price.id.clone(),
        from,
        until: new.until,
        created_at: now,
        updated_at: now,
    })
}

/// A typing error in a year must not compute a thousand cycles.
fn within_reach(pointer: &'static str, day: NaiveDate, today: NaiveDate) -> Result<(), ChangeError> {
    let earliest = today.checked_sub_months(Months::new(FURTHEST_BACK)).unwrap_or(today);
    let latest = today.checked_add_days(Days::new(36_525)).unwrap_or(today);
    if earliest <= day && day <= latest {
        Ok(())
    } else {
        Err(ChangeError::Refused(
            pointer,
            "out_of_range",
            format!("must be a day from {earliest} to {latest}"),
        ))
    }
}

/// Moves a service's end, or lets it go on. What the cycles in between owe follows from it, also where they are
/// closed: the difference is on the next draft.
pub async fn set_until(
    app: &App,
    id: &str,
    until: Option<NaiveDate>,
    by: &By,
) -> Result<Service, ChangeError> {
    let now = app.clock.now();
    let mut tx = app.store.db.begin().await?;
    let owner = services::read(&mut tx, id).await?.ok_or(ChangeError::Gone)?.customer_id;
    let customer = customers::lock(&mut tx, &owner).await?.ok_or(ChangeError::Gone)?;
    let mut service = services::read(&mut tx, id).await?.ok_or(ChangeError::Gone)?;
    if service.until == until {
        return Ok(service);
    }
    if let Some(until) = until {
        within_reach("/until", until, customer.cycle_rule().day_of(now))?;
        if until < service.from {
            let detail = format!("must not be before {}, where the service begins", service.from);
            return Err(ChangeError::Refused("/until", "before_from", detail));
        }
    }
    services::set_until(&mut tx, id, until, now).await?;
    mark_between(&mut tx, &customer, service.until, until, now).await?;
    let detail = json!({ "until": { "before": service.until, "after": until } });
    by.note(app, &mut tx, "service.updated", id, detail).await?;
    tx.commit().await?;
    (service.until, service.updated_at) = (until, now);
    Ok(service)
}

/// From the earlier of the two ends on, the statements differ; no end is later than any.
async fn mark_between(
    tx: &mut Tx,
    customer: &Customer,
    before: Option<NaiveDate>,
    after: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    match before.into_iter().chain(after).min() {
        Some(day) => mark_changed(tx, customer, day, now).await,
        None => Ok(()),
    }
}
