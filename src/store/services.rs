//! Services: which price a customer pays, from when, until when.

use chrono::{DateTime, NaiveDate, Utc};

use super::page::{Page, paged};
use super::{Store, Tx, both, unreadable};
use crate::clock::from_ms;

/// A price attached to a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `ot_svc_…`
    pub id: String,
    pub customer_id: String,
    pub price_id: String,
    /// The first local day of the customer on which it counts.
    pub from: NaiveDate,
    /// The first local day on which it no longer counts.
    pub until: Option<NaiveDate>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Which services a list shows.
#[derive(Clone, Debug, Default)]
pub struct ServiceFilter {
    /// Of this customer; empty for any.
    pub customer_id: String,
    /// With this price; empty for any.
    pub price_id: String,
}

type Row = (String, String, String, String, Option<String>, i64, i64);

/// The columns of [`Row`], in its order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, customer_id, price_id, from_day, until_day, created_at, updated_at from service ",
            $rest
        )
    };
}

fn service(row: Row) -> sqlx::Result<Service> {
    let day = |text: &str| text.parse::<NaiveDate>().map_err(|error| unreadable("day", error));
    Ok(Service {
        id: row.0,
        customer_id: row.1,
        price_id: row.2,
        from: day(&row.3)?,
        until: row.4.as_deref().map(day).transpose()?,
        created_at: from_ms(row.5),
        updated_at: from_ms(row.6),
    })
}

impl Store {
    /// The service with this id.
    pub async fn service(&self, id: &str) -> sqlx::Result<Option<Service>> {
        self.db.opt(both(select!("where id = $1")), (id,)).await?.map(service).transpose()
    }

    /// One page of services.
    pub async fn services(&self, page: &Page, filter: &ServiceFilter) -> sqlx::Result<(Vec<Service>, bool)> {
        let sql = paged!(page, select!("where ($3 = '' or customer_id = $3) and ($4 = '' or price_id = $4)"));
        let args = (page.cursor(), page.fetched(), filter.customer_id.as_str(), filter.price_id.as_str());
        let (rows, has_more) = page.cut(self.db.all(sql, args).await?);
        Ok((rows.into_iter().map(service).collect::<sqlx::Result<_>>()?, has_more))
    }
}

/// The service as this transaction sees it.
pub(crate) async fn read(tx: &mut Tx, id: &str) -> sqlx::Result<Option<Service>> {
    tx.opt(both(select!("where id = $1")), (id,)).await?.map(service).transpose()
}

/// Records a service. False: its id is taken.
pub(crate) async fn insert(tx: &mut Tx, new: &Service) -> sqlx::Result<bool> {
    let sql = both(
        "insert into service (id, customer_id, price_id, from_day, until_day, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict do nothing",
    );
    let args = (
        new.id.as_str(),
        new.customer_id.as_str(),
        new.price_id.as_str(),
        new.from.to_string(),
        new.until.map(|day| day.to_string()),
        new.created_at.timestamp_millis(),
        new.updated_at.timestamp_millis(),
    );
    Ok(tx.run(sql, args).await? == 1)
}

/// Records when a service ends, or that it goes on.
pub(crate) async fn set_until(
    tx: &mut Tx,
    id: &str,
    until: Option<NaiveDate>,
    at: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let sql = both("update service set until_day = $2, updated_at = $3 where id = $1");
    tx.run(sql, (id, until.map(|day| day.to_string()), at.timestamp_millis())).await
}
