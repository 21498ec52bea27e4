//! Prices: what a meter, or nothing, costs. Immutable but for being archived.

use chrono::{DateTime, Utc};

use super::page::{Page, paged};
use super::{Store, Tx, both, unreadable};
use crate::clock::from_ms;
use opentab_billing::PriceTerms;

/// What a meter, or nothing, costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// `ot_prc_…`
    pub id: String,
    /// What the line on an invoice is called.
    pub name: String,
    /// None for a flat fee.
    pub meter_id: Option<String>,
    pub terms: PriceTerms,
    pub created_at: DateTime<Utc>,
    /// Set: no new service may use it.
    pub(crate) archived_at: Option<DateTime<Utc>>,
}

/// Which prices a list shows.
#[derive(Clone, Debug, Default)]
pub struct PriceFilter {
    /// Of this meter; empty for any.
    pub meter_id: String,
    /// Not archived, or archived.
    pub active: Option<bool>,
}

type Row = (String, String, Option<String>, String, i64, Option<i64>);

/// The columns of [`Row`], in its order.
macro_rules! select {
    ($rest:literal) => {
        concat!("select id, name, meter_id, terms, created_at, archived_at from price ", $rest)
    };
}

fn price(row: Row) -> sqlx::Result<Price> {
    Ok(Price {
        id: row.0,
        name: row.1,
        meter_id: row.2,
        terms: serde_json::from_str(&row.3).map_err(|error| unreadable("price terms", error))?,
        created_at: from_ms(row.4),
        archived_at: row.5.map(from_ms),
    })
}

impl Store {
    /// The price with this id.
    pub async fn price(&self, id: &str) -> sqlx::Result<Option<Price>> {
        self.db.opt(both(select!("where id = $1")), (id,)).await?.map(price).transpose()
    }

    /// One page of prices.
    pub async fn prices(&self, page: &Page, filter: &PriceFilter) -> sqlx::Result<(Vec<Price>, bool)> {
        let sql = paged!(
            page,
            select!(
                "where ($3 = '' or meter_id = $3)
                and ($4 = '' or ($4 = 'true' and archived_at is null) or ($4 = 'false' and archived_at is not null))"
            )
        );
        let active = filter.active.map_or("", |active| if active { "true" } else { "false" });
        let args = (page.cursor(), page.fetched(), filter.meter_id.as_str(), active);
        let (rows, has_more) = page.cut(self.db.all(sql, args).await?);
        Ok((rows.into_iter().map(price).collect::<sqlx::Result<_>>()?, has_more))
    }
}

/// The price as this transaction sees it.
pub(crate) async fn read(tx: &mut Tx, id: &str) -> sqlx::Result<Option<Price>> {
    tx.opt(both(select!("where id = $1")), (id,)).await?.map(price).transpose()
}

/// Records a price. False: its id is taken.
pub(crate) async fn insert(tx: &mut Tx, new: &Price) -> sqlx::Result<bool> {
    let sql = both(
        "insert into price (id, name, meter_id, currency, terms, created_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict do nothing",
    );
    let terms = serde_json::to_string(&new.terms).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let args = (
        new.id.as_str(),
        new.name.as_str(),
        new.meter_id.as_deref(),
        new.terms.currency.as_str(),
        terms,
        new.created_at.timestamp_millis(),
    );
    Ok(tx.run(sql, args).await? == 1)
}

/// Archives a price, once: the first time stands.
pub(crate) async fn archive(tx: &mut Tx, id: &str, at: DateTime<Utc>) -> sqlx::Result<u64> {
    let sql = both("update price set archived_at = $2 where id = $1 and archived_at is null");
    tx.run(sql, (id, at.timestamp_millis())).await
}
