//! Meters: what is counted, and how.

use chrono::{DateTime, Utc};

use super::page::{Page, paged};
use super::{Store, Tx, both, unreadable};
use crate::clock::from_ms;
use opentab_billing::Aggregation;

/// What is counted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// The short number that stands in usage rows. Zero until the database has given one.
    pub no: i64,
    /// `ot_mtr_…`
    pub id: String,
    /// What usage events call it.
    pub event_name: String,
    /// What people call it.
    pub display_name: String,
    pub aggregation: Aggregation,
    /// Decimals that a quantity may have, 0 to 9.
    pub decimals: u8,
    /// What one unit is called; may be empty.
    pub unit_label: String,
    pub created_at: DateTime<Utc>,
}

type Row = (i64, String, String, String, String, i64, String, i64);

/// The columns of [`Row`], in its order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select no, id, event_name, display_name, aggregation, decimals, unit_label, created_at from meter ",
            $rest
        )
    };
}

fn meter(row: Row) -> sqlx::Result<Meter> {
    Ok(Meter {
        no: row.0,
        id: row.1,
        event_name: row.2,
        display_name: row.3,
        aggregation: row.4.parse().map_err(|error| unreadable("aggregation", error))?,
        decimals: u8::try_from(row.5).map_err(|error| unreadable("decimals", error))?,
        unit_label: row.6,
        created_at: from_ms(row.7),
    })
}

impl Store {
    /// The meter with this id of ours.
    pub async fn meter(&self, id: &str) -> sqlx::Result<Option<Meter>> {
        self.db.opt(both(select!("where id = $1")), (id,)).await?.map(meter).transpose()
    }

    /// The meter with this id or this event name.
    pub(crate) async fn meter_by_any_id(&self, id: &str) -> sqlx::Result<Option<Meter>> {
        let rows =
            self.db.all(both(select!("where id = $1 or event_name = $1 order by id = $1")), (id,)).await?;
        rows.into_iter().next_back().map(meter).transpose()
    }

    /// One page of meters.
    pub async fn meters(&self, page: &Page, event_name: &str) -> sqlx::Result<(Vec<Meter>, bool)> {
        let sql = paged!(page, select!("where ($3 = '' or event_name = $3)"));
        let (rows, has_more) = page.cut(self.db.all(sql, (page.cursor(), page.fetched(), event_name)).await?);
        Ok((rows.into_iter().map(meter).collect::<sqlx::Result<_>>()?, has_more))
    }
}

/// The meter as this transaction sees it.
pub(crate) async fn read(tx: &mut Tx, id: &str) -> sqlx::Result<Option<Meter>> {
    tx.opt(both(select!("where id = $1")), (id,)).await?.map(meter).transpose()
}

/// Records a meter. False: its id or event name is taken.
pub(crate) async fn insert(tx: &mut Tx, new: &Meter) -> sqlx::Result<bool> {
    let sql = both(
        "insert into meter (id, event_name, display_name, aggregation, decimals, unit_label, created_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict do nothing",
    );
    let args = (
        new.id.as_str(),
        new.event_name.as_str(),
        new.display_name.as_str(),
        new.aggregation.as_str(),
        i64::from(new.decimals),
        new.unit_label.as_str(),
        new.created_at.timestamp_millis(),
    );
    Ok(tx.run(sql, args).await? == 1)
}

/// Records what people call a meter and its unit; nothing else of it ever changes.
pub(crate) async fn rename(tx: &mut Tx, meter: &Meter) -> sqlx::Result<u64> {
    let sql = both("update meter set display_name = $2, unit_label = $3 where id = $1");
    tx.run(sql, (meter.id.as_str(), meter.display_name.as_str(), meter.unit_label.as_str())).await
}
