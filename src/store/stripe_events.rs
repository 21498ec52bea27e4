//! Webhook events: stored before they are answered, reacted to from here.

use super::{Store, Tx, both};

/// An event that Stripe sent.
#[derive(Clone, Debug)]
pub struct StripeEvent {
    pub id: String,
    /// Such as `invoice.finalized`.
    pub kind: String,
    /// What it is about, `in_…` or `cus_…`.
    pub object_id: Option<String>,
    pub livemode: bool,
    /// Stripe's, in unix seconds.
    pub created_at: i64,
    pub received_at: i64,
    /// The whole event, as it came.
    pub payload: String,
    /// `pending`, `handled`, `ignored` or `quarantined`.
    pub state: String,
    /// Why it was ignored or quarantined, or what it did.
    pub reason: Option<String>,
}

from_row!(StripeEvent { id, kind, object_id, livemode, created_at, received_at, payload, state, reason });

/// An event to store.
#[derive(Clone, Debug)]
pub struct NewStripeEvent<'a> {
    /// Stripe's id, `evt_…`; Opentab stores an event with the same id only once.
    pub id: &'a str,
    /// The event type, such as `invoice.finalized`.
    pub kind: &'a str,
    /// The object that it is about, such as `in_…` or `cus_…`; None if the event names none.
    pub object_id: Option<&'a str>,
    /// False for an event of test mode or a sandbox.
    pub livemode: bool,
    /// When it happened at Stripe, in unix seconds.
    pub created_at: i64,
    /// The whole event as JSON, as it was received.
    pub payload: &'a str,
    /// Stored as ignored, for this reason, where nobody reacts to it.
    pub ignored: Option<&'a str>,
    /// Found by asking for it, not heard as a webhook.
    pub polled: bool,
    /// When Opentab received it, in unix milliseconds.
    pub now: i64,
}

macro_rules! select_event {
    ($rest:literal) => {
        both(concat!(
            "select id, kind, object_id, livemode, created_at, received_at, payload, state, reason from stripe_event ",
            $rest
        ))
    };
}

impl Tx {
    /// The event goes on waiting, until it is known what becomes of this invoice.
    pub(crate) async fn stripe_event_waits(&mut self, id: &str, invoice_id: &str) -> sqlx::Result<()> {
        let sql = both("update stripe_event set reason = $1 where id = $2 and state = 'pending'");
        self.run(sql, (invoice_id, id)).await.map(|_| ())
    }

    /// What the events are about that wait for this invoice.
    pub(crate) async fn objects_waiting_for(&mut self, invoice_id: &str) -> sqlx::Result<Vec<(String,)>> {
        let sql = both(
            "select distinct object_id from stripe_event
             where state = 'pending' and object_id is not null and reason = $1 order by object_id",
        );
        self.all(sql, (invoice_id,)).await
    }

    /// Stores an event; false where it is here already.
    pub async fn insert_stripe_event(&mut self, new: &NewStripeEvent<'_>) -> sqlx::Result<bool> {
        let sql = both(
            "insert into stripe_event (id, kind, object_id, livemode, created_at, received_at, payload, state, reason, polled)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             on conflict (id) do nothing",
        );
        let state = if new.ignored.is_some() { "ignored" } else { "pending" };
        let args = (
            new.id,
            new.kind,
            new.object_id,
            new.livemode,
            new.created_at,
            new.now,
            new.payload,
            state,
            new.ignored,
            i64::from(new.polled),
        );
        Ok(self.run(sql, args).await? == 1)
    }

    /// Nobody else settles this event until this transaction ends; false where somebody has.
    pub(crate) async fn lock_stripe_event(&mut self, id: &str) -> sqlx::Result<bool> {
        let sql = both("update stripe_event set reason = reason where id = $1 and state = 'pending'");
        Ok(self.run(sql, (id,)).await? == 1)
    }

    /// Says what became of an event.
    pub async fn settle_stripe_event(
        &mut self,
        id: &str,
        state: &str,
        reason: Option<&str>,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update stripe_event set state = $1, reason = $2, handled_at = $3 where id = $4 and state = 'pending'",
        );
        self.run(sql, (state, reason, now, id)).await.map(|_| ())
    }

    /// Our id of the customer that Stripe calls so.
    pub(crate) async fn customer_named(&mut self, stripe_customer_id: &str) -> sqlx::Result<Option<String>> {
        let sql = both("select id from customer where stripe_customer_id = $1");
        let found: Option<(String,)> = self.opt(sql, (stripe_customer_id,)).await?;
        Ok(found.map(|(id,)| id))
    }

    /// Makes an event wait for a reaction again; false where there is no such event.
    pub async fn replay_stripe_event(&mut self, id: &str) -> sqlx::Result<bool> {
        let sql =
            both("update stripe_event set state = 'pending', reason = null, handled_at = null where id = $1");
        Ok(self.run(sql, (id,)).await? == 1)
    }
}

impl Store {
    /// Events about one object that nobody has reacted to.
    pub(crate) async fn pending_stripe_events(&self, object_id: &str) -> sqlx::Result<Vec<StripeEvent>> {
        let sql = select_event!("where object_id = $1 and state = 'pending' order by received_at, id");
        self.db.all(sql, (object_id,)).await
    }

    /// One event.
    pub async fn stripe_event(&self, id: &str) -> sqlx::Result<Option<StripeEvent>> {
        self.db.opt(select_event!("where id = $1"), (id,)).await
    }

    /// When the last new webhook came, in unix milliseconds; none where none ever did.
    pub(crate) async fn last_webhook_at(&self) -> sqlx::Result<Option<i64>> {
        let sql =
            both("select received_at from stripe_event where polled = 0 order by received_at desc limit 1");
        let last: Option<(i64,)> = self.db.opt(sql, ()).await?;
        Ok(last.map(|(at,)| at))
    }

    /// The longest time between one webhook and the next since a time, in milliseconds, and how many there were. Where
    /// an event had to be asked for in between, webhooks were lost, and the silence was none to get used to.
    pub(crate) async fn longest_silence(&self, since: i64) -> sqlx::Result<(i64, i64)> {
        let sql = both(
            "select cast(coalesce(max(case when polled = 0 and polled_before = 0 then received_at - before end), 0) as bigint),
                    count(*)
             from (select received_at, polled,
                          lag(received_at) over (order by received_at, polled desc) as before,
                          lag(polled) over (order by received_at, polled desc) as polled_before
                   from stripe_event where received_at >= $1) as heard",
        );
        self.db.one(sql, (since,)).await
    }

    /// Events in a state (or in any), newest first.
    pub async fn stripe_events(&self, state: Option<&str>, most: i64) -> sqlx::Result<Vec<StripeEvent>> {
        let sql =
            select_event!("where ($1 = '' or state = $1) order by received_at desc, id desc limit $2 + 0");
        self.db.all(sql, (state.unwrap_or(""), most)).await
    }
}
