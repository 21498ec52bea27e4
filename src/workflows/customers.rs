//! Customers: open their tab, change what may change, and mark the billing cycles whose statement has changed.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::by::{By, ChangeError};
use super::current::begin_invoice;
use super::{charge, invoice_email};
use crate::app::App;
use crate::clock::prefix;
use crate::mailer::Locale;
use crate::store::Tx;
use crate::store::customers::{self, Customer, CustomerState};
use opentab_billing::CollectionMethod;
use opentab_billing::Currency;

/// A customer who is not there yet.
#[derive(Clone, Debug)]
pub struct NewCustomer {
    /// What invoices and pages call them.
    pub name: String,
    /// Where their e-mails go; None if they get none.
    pub email: Option<String>,
    /// The user's own id for them, unique; None if the user has none.
    pub external_id: Option<String>,
    /// The currency of every amount of theirs, permanently.
    pub currency: Currency,
    /// The time zone whose midnights begin their days and billing cycles, permanently.
    pub time_zone: Tz,
    /// The day of the month on which a billing cycle begins, 1 to 31, permanently.
    pub anchor_day: u8,
    /// Whether Stripe charges them or sends an invoice to pay.
    pub collection_method: CollectionMethod,
    /// Days until a sent invoice is due, 0 to 365.
    pub days_until_due: i64,
    /// Their id at Stripe, `cus_…`; None lets Opentab create the customer there.
    pub stripe_customer_id: Option<String>,
    /// The language in which they are written to; English where it is absent.
    pub locale: Option<String>,
    /// The first day on which they are billed; always where it is absent.
    pub active_from: Option<NaiveDate>,
    /// The first day on which they are no longer billed; never where it is absent.
    pub active_until: Option<NaiveDate>,
    /// The user's own keys and values, which do not affect billing.
    pub metadata: BTreeMap<String, String>,
}

/// What may change of a customer; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct CustomerChange {
    /// What invoices and pages call them.
    pub name: Option<String>,
    /// Some(None) removes it.
    pub email: Option<Option<String>>,
    /// Some(None) removes it.
    pub external_id: Option<Option<String>>,
    /// Whether invoices from now on are charged automatically or sent to be paid.
    pub collection_method: Option<CollectionMethod>,
    /// Days until a sent invoice is due, 0 to 365.
    pub days_until_due: Option<i64>,
    /// Some(None) for what holds for all.
    pub suspension_grace_days: Option<Option<i64>>,
    /// Only while the customer has none.
    pub stripe_customer_id: Option<String>,
    /// The language in which they are written to, such as `de` or `pt-BR`.
    pub locale: Option<String>,
    /// Some(None) for always.
    pub active_from: Option<Option<NaiveDate>>,
    /// Some(None) for never.
    pub active_until: Option<Option<NaiveDate>>,
    /// Merged into what is there; an empty value removes its key, as at Stripe.
    pub metadata: BTreeMap<String, String>,
}

/// Opens a customer's tab. A repeated request answers the customer that the first one made.
pub async fn create(app: &App, new: NewCustomer, by: &By) -> Result<Customer, ChangeError> {
    let now = app.clock.now();
    let customer = unsaved(by.new_id(app, prefix::CUSTOMER), new, now);
    check_active_days(&customer)?;
    let mut tx = app.store.db.begin().await?;
    if let Some(made_before) = customers::lock(&mut tx, &customer.id).await? {
        return Ok(made_before);
    }
    if !customers::insert(&mut tx, &customer).await? {
        let field = customers::taken(&mut tx, &customer).await?;
        return Err(ChangeError::Taken(field.unwrap_or("id")));
    }
    begin_invoice(app, &mut tx, &customer, &customer.cycle_rule().cycle_at(now)).await?;
    let detail = json!({ "currency": customer.currency.as_str(), "time_zone": customer.time_zone.name() });
    by.note(app, &mut tx, "customer.created", &customer.id, detail).await?;
    tx.commit().await?;
    Ok(app.store.customer(&customer.id).await?.unwrap_or(customer))
}

fn unsaved(id: String, new: NewCustomer, now: DateTime<Utc>) -> Customer {
    Customer {
        no: 0,
        id,
        external_id: new.external_id,
        name: new.name,
        email: new.email,
        bounced_email: None,
        currency: new.currency,
        time_zone: new.time_zone,
        anchor_day: new.anchor_day,
        collection_method: new.collection_method,
        days_until_due: new.days_until_due,
        stripe_customer_id: new.stripe_customer_id,
        state: CustomerState::Active,
        suspended_at: None,
        suspension_grace_days: None,
        locale: new.locale.unwrap_or_else(|| Locale::DEFAULT.to_owned()),
        active_from: new.active_from,
        active_until: new.active_until,
        last_imported_at: None,
        metadata: new.metadata,
        created_at: now,
        updated_at: now,
    }
}

/// Changes what may change of a customer.
pub async fn update(app: &App, id: &str, change: CustomerChange, by: &By) -> Result<Customer, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let before = customers::lock(&mut tx, id).await?.ok_or(ChangeError::Gone)?;
    let mut after = before.clone();
    apply(&mut after, change)?;
    if after == before {
        return Ok(before);
    }
    after.updated_at = app.clock.now();
    if let Some(field) = customers::taken(&mut tx, &after).await? {
        return Err(ChangeError::Taken(field));
    }
    record_change(app, &mut tx, &before, &after, by).await?;
    let has_other_grace = after.suspension_grace_days != before.suspension_grace_days;
    if has_other_grace {
        charge::grace_changed(app, &mut tx, &after.id).await?;
    }
    tx.commit().await?;
    if has_other_grace {
        app.wake_charges.notify_one();
    }
    Ok(after)
}

/// Records what has changed of a customer, and what follows from it.
pub(super) async fn record_change(
    app: &App,
    tx: &mut Tx,
    before: &Customer,
    after: &Customer,
    by: &By,
) -> sqlx::Result<()> {
    customers::update(tx, after).await?;
    tx.pending_invoice_collects(&after.id, after.collection_method.as_str()).await?;
    if after.state != before.state {
        begin_again(app, tx, after).await?;
    }
    mark_active_days(tx, before, after).await?;
    if let Some(address) = after.email.as_ref().filter(|_| after.email != before.email) {
        invoice_email::address_is_set(app, tx, &after.id, address).await?;
    }
    let detail = json!({ "fields": changed_fields(before, after) });
    by.note(app, tx, "customer.updated", &after.id, detail).await
}

/// Which days are billed has changed: so have the statements from the first such day on.
async fn mark_active_days(tx: &mut Tx, before: &Customer, after: &Customer) -> sqlx::Result<()> {
    let days = [(before.active_from, after.active_from), (before.active_until, after.active_until)];
    if days.iter().all(|(old, new)| old == new) {
        return Ok(());
    }
    let moved = days.into_iter().filter(|(old, new)| old != new);
    // Where there was no first day, or is none any more, every day before it is another one.
    let first = match (before.active_from, after.active_from) {
        (old, new) if old != new && (old.is_none() || new.is_none()) => None,
        _ => moved.flat_map(|(old, new)| [old, new]).flatten().min(),
    };
    let rule = after.cycle_rule();
    let cycle = first.map(|day| rule.cycle_at(rule.day_start(day)).first_day.to_string());
    tx.mark_cycles_changed_from(&after.id, cycle.as_deref().unwrap_or("")).await
}

/// Changes what may change, in a copy.
pub(super) fn apply(customer: &mut Customer, change: CustomerChange) -> Result<(), ChangeError> {
    if let Some(stripe_customer_id) = change.stripe_customer_id {
        link(customer, stripe_customer_id)?;
    }
    if let Some(name) = change.name {
        customer.name = name;
    }
    if let Some(email) = change.email {
        customer.email = email;
    }
    if let Some(external_id) = change.external_id {
        customer.external_id = external_id;
    }
    if let Some(collection_method) = change.collection_method {
        customer.collection_method = collection_method;
    }
    if let Some(days_until_due) = change.days_until_due {
        customer.days_until_due = days_until_due;
    }
    if let Some(suspension_grace_days) = change.suspension_grace_days {
        customer.suspension_grace_days = suspension_grace_days;
    }
    if let Some(locale) = change.locale {
        customer.locale = locale;
    }
    if let Some(active_from) = change.active_from {
        customer.active_from = active_from;
    }
    if let Some(active_until) = change.active_until {
        customer.active_until = active_until;
    }
    check_active_days(customer)?;
    customer.metadata.extend(change.metadata);
    customer.metadata.retain(|_, value| !value.is_empty());
    if customer.metadata.len() > 50 {
        Err(ChangeError::Refused("/metadata", "too_many", "would have more than 50 keys".to_owned()))
    } else {
        Ok(())
    }
}

fn check_active_days(customer: &Customer) -> Result<(), ChangeError> {
    match (customer.active_from, customer.active_until) {
        (Some(from), Some(until)) if until < from => {
            let detail = format!("must not be before {from}, where active_from is");
            Err(ChangeError::Refused("/active_until", "before_active_from", detail))
        }
        _ => Ok(()),
    }
}

/// A customer who was deleted at Stripe is another one there from now on. What became of the first one's draft is read
/// by the next sync: finalized, it is sealed; everything that is not billed goes on a draft of the new one.
async fn begin_again(app: &App, tx: &mut Tx, customer: &Customer) -> sqlx::Result<()> {
    mutant!(RelinkForgets, return Ok(()));
    let now = app.clock.now_ms();
    if let Some(invoice) = tx.current_invoice(&customer.id).await? {
        tx.read_invoice_back(&invoice.id, now).await?;
    }
    tx.abandon_intents(&customer.id, "the customer was deleted at Stripe", now).await?;
    tx.customer_back(&customer.id).await?;
    tx.resolve_incident("customer_gone_at_stripe", &customer.id, now).await
}

/// Invoices stand under the Stripe customer for ever, so the link is made once, and anew only where that one is gone.
fn link(customer: &mut Customer, stripe_customer_id: String) -> Result<(), ChangeError> {
    match &customer.stripe_customer_id {
        Some(linked) if *linked != stripe_customer_id && customer.state == CustomerState::GoneAtStripe => {
            customer.state = CustomerState::Active;
            customer.stripe_customer_id = Some(stripe_customer_id);
            Ok(())
        }
        Some(linked) if *linked != stripe_customer_id => Err(ChangeError::Refused(
            "/stripe_customer_id",
            "immutable",
            format!("is {linked} already and cannot change: the customer's invoices stand under it"),
        )),
        _ => {
            customer.stripe_customer_id = Some(stripe_customer_id);
            Ok(())
        }
    }
}

/// Names, not values: an audit row outlives what a customer may want forgotten.
pub(super) fn changed_fields(before: &Customer, after: &Customer) -> Vec<&'static str> {
    let all = [
        ("name", before.name != after.name),
        ("email", before.email != after.email),
        ("external_id", before.external_id != after.external_id),
        ("collection_method", before.collection_method != after.collection_method),
        ("days_until_due", before.days_until_due != after.days_until_due),
        ("suspension_grace_days", before.suspension_grace_days != after.suspension_grace_days),
        ("stripe_customer_id", before.stripe_customer_id != after.stripe_customer_id),
        ("locale", before.locale != after.locale),
        ("active_from", before.active_from != after.active_from),
        ("active_until", before.active_until != after.active_until),
        ("metadata", before.metadata != after.metadata),
    ];
    all.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

/// Marks every billing cycle from the one of this local day up to the current one: what they owe has changed. Days
/// after the current cycle mark nothing, since a cycle is computed anew when it begins.
pub(crate) async fn mark_changed(
    tx: &mut Tx,
    customer: &Customer,
    from: NaiveDate,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let rule = customer.cycle_rule();
    let current = rule.cycle_at(now);
    let mut cycle = rule.cycle_at(rule.day_start(from));
    while cycle.first_day <= current.first_day {
        tx.mark_cycle_changed(&customer.id, &cycle.first_day.to_string()).await?;
        cycle = rule.next(&cycle);
    }
    Ok(())
}
