//! Amounts from outside: what a service costs in a cycle as the user's own API says, and whether that API is asked.

use super::page::{Page, paged};
use super::{Store, Tx, both, split};

/// The amount of one service and cycle.
#[derive(Clone, Debug)]
pub struct LookedUpAmount {
    /// `ot_amt_…`
    pub id: String,
    /// The service that the amount is for, `ot_svc_…`.
    pub service_id: String,
    /// The customer who has the service, `ot_cus_…`.
    pub customer_id: String,
    /// Its first local day.
    pub cycle: String,
    /// Which API.
    pub lookup: String,
    /// `asking`, `known` or `missing`.
    pub state: String,
    /// Minor units.
    pub amount: Option<i64>,
    /// A later answer that differs.
    pub other_amount: Option<i64>,
    /// Why there is none, or not yet; of one that is known, what a later answer said.
    pub reason: Option<String>,
    /// What went wrong with the last answer, for people; None if `reason` says enough.
    pub detail: Option<String>,
    /// How often Opentab has asked the API since a person last requested a retry.
    pub attempts: i64,
    /// When Opentab recorded that it needs this amount, in unix milliseconds.
    pub created_at: i64,
    /// When this row last changed, in unix milliseconds.
    pub updated_at: i64,
}

from_row!(LookedUpAmount {
    id,
    service_id,
    customer_id,
    cycle,
    lookup,
    state,
    amount,
    other_amount,
    reason,
    detail,
    attempts,
    created_at,
    updated_at
});

/// Which amounts a list shows.
#[derive(Clone, Debug, Default)]
pub struct AmountFilter {
    /// Of cycles that begin in this month, such as 2026-11; empty for any.
    pub month: String,
    /// In this state, or `differs` where a later answer is another one; empty for any.
    pub state: String,
}

/// Whether an API is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookupBreaker {
    /// `closed`, `open` or `half_open`.
    pub state: String,
    /// In a row.
    pub failures: i64,
    /// How often it has opened since it was last closed.
    pub opened: i64,
    pub(crate) until_at: i64,
}

from_row!(LookupBreaker { state, failures, opened, until_at });

macro_rules! amount_columns {
    ($rest:literal) => {
        concat!(
            "select id, service_id, customer_id, cycle, lookup, state, amount, other_amount, reason, detail, ",
            "attempts, created_at, updated_at from looked_up_amount ",
            $rest
        )
    };
}

impl Store {
    /// One amount.
    pub async fn looked_up_amount(&self, id: &str) -> sqlx::Result<Option<LookedUpAmount>> {
        self.db.opt(both(amount_columns!("where id = $1")), (id,)).await
    }

    /// The amounts of a customer's cycle, also those that are not known.
    pub async fn amounts_of_cycle(
        &self,
        customer_id: &str,
        cycle: &str,
    ) -> sqlx::Result<Vec<LookedUpAmount>> {
        let sql = both(amount_columns!("where customer_id = $1 and cycle = $2 order by id"));
        self.db.all(sql, (customer_id, cycle)).await
    }

    /// One page of amounts.
    pub async fn looked_up_amounts(
        &self,
        page: &Page,
        filter: &AmountFilter,
    ) -> sqlx::Result<(Vec<LookedUpAmount>, bool)> {
        let sql = paged!(
            page,
            amount_columns!(
                "where ($3 = '' or substr(cycle, 1, 7) = $3)
                   and ($4 = '' or state = $4 or ($4 = 'differs' and other_amount is not null))"
            )
        );
        let args = (page.cursor(), page.fetched(), filter.month.as_str(), filter.state.as_str());
        Ok(page.cut(self.db.all(sql, args).await?))
    }

    /// Whether any amount that the filter takes is not known.
    pub async fn is_any_amount_unknown(&self, filter: &AmountFilter) -> sqlx::Result<bool> {
        let sql = both(
            "select 1 from looked_up_amount
             where state <> 'known' and ($1 = '' or substr(cycle, 1, 7) = $1) and ($2 = '' or state = $2) limit 1",
        );
        let found: Option<(i32,)> = self.db.opt(sql, (filter.month.as_str(), filter.state.as_str())).await?;
        Ok(found.is_some())
    }

    /// The next amounts of a month that are not known, or all of it, after this id.
    pub(crate) async fn amounts_to_ask(
        &self,
        month: &str,
        known_too: bool,
        after: &str,
    ) -> sqlx::Result<Vec<LookedUpAmount>> {
        let sql = both(amount_columns!(
            "where substr(cycle, 1, 7) = $1 and (state <> 'known' or $2) and id > $3 order by id limit 500"
        ));
        self.db.all(sql, (month, known_too, after)).await
    }

    /// How many amounts of a month there are in each state.
    pub(crate) async fn amount_counts(&self, month: &str) -> sqlx::Result<Vec<(String, i64)>> {
        let sql = both(
            "select state, count(*) from looked_up_amount where substr(cycle, 1, 7) = $1 group by state",
        );
        self.db.all(sql, (month,)).await
    }

    /// Of how many amounts of a month a later answer differs.
    pub(crate) async fn differing_amounts(&self, month: &str) -> sqlx::Result<i64> {
        let sql = both(
            "select count(*) from looked_up_amount
             where substr(cycle, 1, 7) = $1 and state = 'known' and other_amount is not null",
        );
        let (count,): (i64,) = self.db.one(sql, (month,)).await?;
        Ok(count)
    }

    /// Whether an API is asked.
    pub async fn lookup_breaker(&self, lookup: &str) -> sqlx::Result<Option<LookupBreaker>> {
        let sql = both("select state, failures, opened, until_at from lookup_breaker where lookup = $1");
        self.db.opt(sql, (lookup,)).await
    }

    /// Takes the one try that an open breaker allows; false where another has it.
    pub(crate) async fn take_lookup_probe(&self, lookup: &str, now: i64, until: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update lookup_breaker set state = 'half_open', until_at = $3
             where lookup = $1 and state <> 'closed' and until_at <= $2",
        );
        Ok(self.db.run(sql, (lookup, now, until)).await? == 1)
    }
}

impl Tx {
    /// Writes down that an amount is wanted; false where that is known.
    pub async fn want_amount(&mut self, new: &LookedUpAmount) -> sqlx::Result<bool> {
        let sql = both(
            "insert into looked_up_amount (id, service_id, customer_id, cycle, lookup, state, created_at, updated_at)
             values ($1, $2, $3, $4, $5, 'asking', $6, $6)
             on conflict (service_id, cycle) do nothing",
        );
        let args = (&new.id, &new.service_id, &new.customer_id, &new.cycle, &new.lookup, new.created_at);
        Ok(self.run(sql, args).await? == 1)
    }

    /// The amount, as this transaction sees it; nobody else changes it until the end.
    pub(crate) async fn lock_amount(&mut self, id: &str) -> sqlx::Result<Option<LookedUpAmount>> {
        let sql = split(amount_columns!("where id = $1 for update"), amount_columns!("where id = $1"));
        self.opt(sql, (id,)).await
    }

    /// Closes what was reported of a customer's invoice that was closed without its amounts, once none is awaited any more.
    /// By the customer: an invoice with nothing on it has gone on into another cycle.
    pub(crate) async fn no_amount_is_missing(
        &mut self,
        kind: &str,
        customer_id: &str,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update incident set resolved_at = $1
             where kind = $2 and resolved_at is null
               and subject in (select id from invoice where customer_id = $3)
               and not exists (select 1 from looked_up_amount where customer_id = $3 and state = 'asking')",
        );
        self.run(sql, (now, kind, customer_id)).await.map(drop)
    }

    /// Records what is known of an amount.
    pub async fn put_amount(&mut self, amount: &LookedUpAmount) -> sqlx::Result<()> {
        let sql = both(
            "update looked_up_amount
             set state = $2, amount = $3, other_amount = $4, reason = $5, detail = $6, attempts = $7, updated_at = $8
             where id = $1",
        );
        let args = (
            &amount.id,
            &amount.state,
            amount.amount,
            amount.other_amount,
            &amount.reason,
            &amount.detail,
            amount.attempts,
            amount.updated_at,
        );
        self.run(sql, args).await.map(drop)
    }

    /// The breaker; nobody else changes it until the end.
    pub(crate) async fn lock_breaker(&mut self, lookup: &str) -> sqlx::Result<LookupBreaker> {
        let new = both(
            "insert into lookup_breaker (lookup, state, failures, opened, until_at)
             values ($1, 'closed', 0, 0, 0) on conflict do nothing",
        );
        self.run(new, (lookup,)).await?;
        let sql = split(
            "select state, failures, opened, until_at from lookup_breaker where lookup = $1 for update",
            "select state, failures, opened, until_at from lookup_breaker where lookup = $1",
        );
        self.one(sql, (lookup,)).await
    }

    /// Records the breaker.
    pub(crate) async fn put_breaker(&mut self, lookup: &str, breaker: &LookupBreaker) -> sqlx::Result<()> {
        let sql = both(
            "update lookup_breaker set state = $2, failures = $3, opened = $4, until_at = $5 where lookup = $1",
        );
        let args = (lookup, &breaker.state, breaker.failures, breaker.opened, breaker.until_at);
        self.run(sql, args).await.map(drop)
    }
}
