//! Customers: who is billed, and by which calendar.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::page::{Page, paged};
use super::{Store, both, unreadable};
use crate::clock::from_ms;
use crate::store::Tx;
use opentab_billing::{CollectionMethod, Currency, CycleRule};

/// Who is billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// The short number that stands in usage rows. Zero until the database has given one.
    pub no: i64,
    /// Ours, `ot_cus_…`.
    pub id: String,
    /// The user's own id for this customer.
    pub external_id: Option<String>,
    /// What invoices and pages call them.
    pub name: String,
    /// Where their e-mails go; None if they have no address.
    pub email: Option<String>,
    /// An address of theirs from which e-mail came back for good.
    pub bounced_email: Option<String>,
    /// What every amount of this customer is in, for ever.
    pub currency: Currency,
    /// Whose midnights cut days and cycles, for ever.
    pub time_zone: Tz,
    /// The day of the month on which a cycle begins, 1 to 31, for ever.
    pub anchor_day: u8,
    /// Whether their invoices are charged automatically or sent to be paid.
    pub collection_method: CollectionMethod,
    /// Days until a sent invoice is due.
    pub days_until_due: i64,
    /// None until Stripe has this customer.
    pub stripe_customer_id: Option<String>,
    /// Whether they still exist at Stripe; Opentab syncs nothing for a customer deleted there.
    pub state: CustomerState,
    /// Since when they are suspended for not paying.
    pub suspended_at: Option<DateTime<Utc>>,
    /// Days after a due date before they are suspended; none for what holds for all.
    pub suspension_grace_days: Option<i64>,
    /// The language in which they are written to, such as `de` or `pt-BR`.
    pub locale: String,
    /// The first local day on which they are billed; none for always.
    pub active_from: Option<NaiveDate>,
    /// The first local day on which they are no longer billed; none for never.
    pub active_until: Option<NaiveDate>,
    /// When a customer list that names them was last imported.
    pub last_imported_at: Option<DateTime<Utc>>,
    /// The user's own keys and values, which do not affect billing.
    pub metadata: BTreeMap<String, String>,
    /// When Opentab created them.
    pub created_at: DateTime<Utc>,
    /// When their data last changed.
    pub updated_at: DateTime<Utc>,
}

impl Customer {
    /// Whether nothing is sent to their address by itself, because it came back for good.
    pub fn email_bounces(&self) -> bool {
        self.email.is_some() && self.email == self.bounced_email
    }

    /// How this customer's time is cut into cycles and days.
    pub fn cycle_rule(&self) -> CycleRule {
        let zone = self.time_zone;
        mutant!(CycleInUtc, let zone = Tz::UTC);
        CycleRule { zone, anchor_day: self.anchor_day }
    }
}

/// Whether a customer can be billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerState {
    /// Billed.
    Active,
    /// Deleted at Stripe: usage is still counted, nothing is synced.
    GoneAtStripe,
}

impl CustomerState {
    /// As the database and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            CustomerState::Active => "active",
            CustomerState::GoneAtStripe => "gone_at_stripe",
        }
    }
}

/// Which customers a list shows.
#[derive(Clone, Debug, Default)]
pub struct CustomerFilter {
    /// Exactly this external id; empty for any.
    pub external_id: String,
    /// Exactly this e-mail address; empty for any.
    pub email: String,
}

struct Row {
    no: i64,
    id: String,
    external_id: Option<String>,
    name: String,
    email: Option<String>,
    bounced_email: Option<String>,
    currency: String,
    time_zone: String,
    anchor_day: i64,
    collection_method: String,
    days_until_due: i64,
    stripe_customer_id: Option<String>,
    state: String,
    suspended_at: Option<i64>,
    suspension_grace_days: Option<i64>,
    locale: String,
    active_from: Option<String>,
    active_until: Option<String>,
    last_imported_at: Option<i64>,
    metadata: String,
    created_at: i64,
    updated_at: i64,
}

from_row!(Row {
    no,
    id,
    external_id,
    name,
    email,
    bounced_email,
    currency,
    time_zone,
    anchor_day,
    collection_method,
    days_until_due,
    stripe_customer_id,
    state,
    suspended_at,
    suspension_grace_days,
    locale,
    active_from,
    active_until,
    last_imported_at,
    metadata,
    created_at,
    updated_at
});

/// The columns of [`Row`].
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select no, id, external_id, name, email, bounced_email, currency, time_zone, anchor_day, collection_method, ",
            "days_until_due, stripe_customer_id, state, suspended_at, suspension_grace_days, locale, active_from, ",
            "active_until, last_imported_at, metadata, created_at, updated_at from customer ",
            $rest
        )
    };
}

fn day(text: Option<String>) -> sqlx::Result<Option<NaiveDate>> {
    text.map(|text| text.parse().map_err(|error| unreadable("day", error))).transpose()
}

fn customer(row: Row) -> sqlx::Result<Customer> {
    Ok(Customer {
        no: row.no,
        id: row.id,
        external_id: row.external_id,
        name: row.name,
        email: row.email,
        bounced_email: row.bounced_email,
        currency: Currency::parse(&row.currency).map_err(|error| unreadable("currency", error))?,
        time_zone: row.time_zone.parse().map_err(|error| unreadable("time zone", error))?,
        anchor_day: u8::try_from(row.anchor_day).map_err(|error| unreadable("anchor day", error))?,
        collection_method: row
            .collection_method
            .parse()
            .map_err(|error| unreadable("collection method", error))?,
        days_until_due: row.days_until_due,
        stripe_customer_id: row.stripe_customer_id,
        state: match row.state.as_str() {
            "active" => CustomerState::Active,
            _ => CustomerState::GoneAtStripe,
        },
        suspended_at: row.suspended_at.map(from_ms),
        suspension_grace_days: row.suspension_grace_days,
        locale: row.locale,
        active_from: day(row.active_from)?,
        active_until: day(row.active_until)?,
        last_imported_at: row.last_imported_at.map(from_ms),
        metadata: serde_json::from_str(&row.metadata).map_err(|error| unreadable("metadata", error))?,
        created_at: from_ms(row.created_at),
        updated_at: from_ms(row.updated_at),
    })
}

impl Store {
    /// The customer with this id of ours.
    pub async fn customer(&self, id: &str) -> sqlx::Result<Option<Customer>> {
        self.db.opt(both(select!("where id = $1")), (id,)).await?.map(customer).transpose()
    }

    /// The customer with this id, ours or the user's own.
    pub async fn customer_by_any_id(&self, id: &str) -> sqlx::Result<Option<Customer>> {
        let sql = both(select!("where id = $1 or external_id = $1 order by id = $1"));
        mutant!(SomebodyElsesData, let sql =
            both(select!("where id = $1 or external_id <> $1 order by external_id")));
        let rows = self.db.all(sql, (id,)).await?;
        rows.into_iter().next_back().map(customer).transpose()
    }

    /// One page of customers.
    pub async fn customers(
        &self,
        page: &Page,
        filter: &CustomerFilter,
    ) -> sqlx::Result<(Vec<Customer>, bool)> {
        let sql = paged!(page, select!("where ($3 = '' or external_id = $3) and ($4 = '' or email = $4)"));
        let args = (page.cursor(), page.fetched(), filter.external_id.as_str(), filter.email.as_str());
        let rows = self.db.all(sql, args).await?;
        let (rows, has_more) = page.cut(rows);
        Ok((rows.into_iter().map(customer).collect::<sqlx::Result<_>>()?, has_more))
    }
}

/// The customer as this transaction sees it; on PostgreSQL nobody else changes it until the end.
pub async fn lock(tx: &mut Tx, id: &str) -> sqlx::Result<Option<Customer>> {
    let sql = super::split(select!("where id = $1 for update"), select!("where id = $1"));
    tx.opt(sql, (id,)).await?.map(customer).transpose()
}

/// The customers whose external ids this JSON list names.
pub(super) async fn lock_by_external_id(tx: &mut Tx, ids: String) -> sqlx::Result<Vec<Customer>> {
    let sql = super::split(
        select!("where external_id in (select jsonb_array_elements_text($1::jsonb)) order by id for update"),
        select!("where external_id in (select value from json_each($1))"),
    );
    tx.all(sql, (ids,)).await?.into_iter().map(customer).collect()
}

/// Records a customer. False: its id, external id or Stripe id is taken.
pub(crate) async fn insert(tx: &mut Tx, new: &Customer) -> sqlx::Result<bool> {
    let sql = both(
        "insert into customer (id, external_id, name, email, currency, time_zone, anchor_day, collection_method,
            days_until_due, stripe_customer_id, state, metadata, created_at, updated_at, locale, active_from,
            active_until)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14, $15, $16)
        on conflict do nothing",
    );
    let args = (
        new.id.as_str(),
        new.external_id.as_deref(),
        new.name.as_str(),
        new.email.as_deref(),
        new.currency.as_str(),
        new.time_zone.name(),
        i64::from(new.anchor_day),
        new.collection_method.as_str(),
        new.days_until_due,
        new.stripe_customer_id.as_deref(),
        new.state.as_str(),
        text(&new.metadata)?,
        new.created_at.timestamp_millis(),
        new.locale.as_str(),
        new.active_from.map(|day| day.to_string()),
        new.active_until.map(|day| day.to_string()),
    );
    Ok(tx.run(sql, args).await? == 1)
}

/// Records what may change of a customer.
pub async fn update(tx: &mut Tx, customer: &Customer) -> sqlx::Result<u64> {
    let sql = both(
        "update customer
        set external_id = $2, name = $3, email = $4, collection_method = $5, days_until_due = $6,
            stripe_customer_id = $7, metadata = $8, updated_at = $9, suspension_grace_days = $10, locale = $11,
            active_from = $12, active_until = $13
        where id = $1",
    );
    let args = (
        customer.id.as_str(),
        customer.external_id.as_deref(),
        customer.name.as_str(),
        customer.email.as_deref(),
        customer.collection_method.as_str(),
        customer.days_until_due,
        customer.stripe_customer_id.as_deref(),
        text(&customer.metadata)?,
        customer.updated_at.timestamp_millis(),
        customer.suspension_grace_days,
        customer.locale.as_str(),
        customer.active_from.map(|day| day.to_string()),
        customer.active_until.map(|day| day.to_string()),
    );
    tx.run(sql, args).await
}

/// Whether another customer has this external id or Stripe id. Absent ids are nobody's.
pub(crate) async fn taken(tx: &mut Tx, customer: &Customer) -> sqlx::Result<Option<&'static str>> {
    let sql = both(
        "select external_id, stripe_customer_id from customer
        where id <> $1 and (external_id = $2 or stripe_customer_id = $3)
        limit 1",
    );
    let args =
        (customer.id.as_str(), customer.external_id.as_deref(), customer.stripe_customer_id.as_deref());
    let row: Option<(Option<String>, Option<String>)> = tx.opt(sql, args).await?;
    Ok(row.map(|(external_id, _)| {
        if external_id.is_some() && external_id == customer.external_id {
            "external_id"
        } else {
            "stripe_customer_id"
        }
    }))
}

fn text(metadata: &BTreeMap<String, String>) -> sqlx::Result<String> {
    serde_json::to_string(metadata).map_err(|error| sqlx::Error::Encode(error.into()))
}

impl Tx {
    /// Records that a customer was deleted at Stripe; false where that is known.
    pub(crate) async fn customer_gone(&mut self, customer_id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer set state = 'gone_at_stripe', updated_at = $1 where id = $2 and state = 'active'",
        );
        Ok(self.run(sql, (now, customer_id)).await? == 1)
    }

    /// Records that a customer who was deleted at Stripe is another one there now.
    pub(crate) async fn customer_back(&mut self, customer_id: &str) -> sqlx::Result<()> {
        let sql = both("update customer set state = 'active' where id = $1 and state = 'gone_at_stripe'");
        self.run(sql, (customer_id,)).await.map(drop)
    }
}
