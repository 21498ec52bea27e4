//! Outgoing webhooks: the endpoints of the user's own application, the events they hear of, and each delivery.

use super::page::{Page, paged};
use super::{Store, Tx, both};

/// An address that hears of what happens. Times in unix milliseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookEndpoint {
    /// `ot_whe_…`
    pub id: String,
    pub url: String,
    pub description: String,
    /// Event types by space; `*` for all.
    pub events: String,
    /// `whsec_…`
    pub secret: String,
    /// Signs as well, until then.
    pub(crate) old_secret: Option<String>,
    pub(crate) old_secret_until: Option<i64>,
    /// `enabled`, `disabled` or `deleted`.
    pub state: String,
    /// Since when nothing has arrived.
    pub(crate) failing_since: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
}

from_row!(WebhookEndpoint {
    id,
    url,
    description,
    events,
    secret,
    old_secret,
    old_secret_until,
    state,
    failing_since,
    created_at,
    updated_at
});

/// Without its secrets.
impl std::fmt::Debug for WebhookEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookEndpoint")
            .field("id", &self.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl WebhookEndpoint {
    /// Whether it wants to hear of events of this type.
    pub fn hears(&self, kind: &str) -> bool {
        self.events.split(' ').any(|wanted| wanted == "*" || wanted == kind)
    }
}

/// One event on its way to one endpoint. Times in unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookDelivery {
    /// `ot_whd_…`
    pub id: String,
    pub(crate) endpoint_id: String,
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// The exact bytes that are sent.
    pub body: String,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    pub attempts: i64,
    pub(crate) next_at: i64,
    /// What the endpoint answered last; none where no answer came.
    pub status: Option<i64>,
    pub last_error: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

from_row!(WebhookDelivery {
    id,
    endpoint_id,
    event_id,
    kind,
    body,
    state,
    attempts,
    next_at,
    status,
    last_error,
    created_at,
    updated_at
});

/// Which deliveries a list shows; an empty text is any.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub(crate) endpoint_id: String,
    pub state: String,
}

/// How an attempt ended, and when the next one is.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryAttempt<'a> {
    pub state: &'a str,
    pub status: Option<i64>,
    pub error: Option<&'a str>,
    pub(crate) next_at: i64,
    pub now: i64,
}

macro_rules! select_endpoint {
    ($rest:literal) => {
        concat!(
            "select id, url, description, events, secret, old_secret, old_secret_until, state, failing_since, ",
            "created_at, updated_at from webhook_endpoint ",
            $rest
        )
    };
}

macro_rules! select_delivery {
    ($rest:literal) => {
        concat!(
            "select id, endpoint_id, event_id, kind, body, state, attempts, next_at, status, last_error, ",
            "created_at, updated_at from (
                 select webhook_delivery.id, endpoint_id, event_id, outgoing_event.kind, body, state, attempts,
                        next_at, status, last_error, webhook_delivery.created_at, updated_at
                 from webhook_delivery join outgoing_event on outgoing_event.id = event_id) as delivery ",
            $rest
        )
    };
}

impl Tx {
    /// Records an endpoint; false where its id is there already.
    pub(crate) async fn insert_endpoint(&mut self, new: &WebhookEndpoint) -> sqlx::Result<bool> {
        let sql = both(
            "insert into webhook_endpoint (id, url, description, events, secret, state, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $7)
             on conflict do nothing",
        );
        let (id, url, description, events) = (&new.id, &new.url, &new.description, &new.events);
        let args = (id, url, description, events, &new.secret, &new.state, new.created_at);
        Ok(self.run(sql, args).await? == 1)
    }

    /// Records what has changed of an endpoint.
    pub(crate) async fn update_endpoint(&mut self, endpoint: &WebhookEndpoint) -> sqlx::Result<()> {
        let sql = both(
            "update webhook_endpoint set url = $1, description = $2, events = $3, secret = $4, old_secret = $5,
                 old_secret_until = $6, state = $7, failing_since = $8, updated_at = $9
             where id = $10",
        );
        let args = (
            &endpoint.url,
            &endpoint.description,
            &endpoint.events,
            &endpoint.secret,
            &endpoint.old_secret,
            endpoint.old_secret_until,
            &endpoint.state,
            endpoint.failing_since,
            endpoint.updated_at,
            &endpoint.id,
        );
        self.run(sql, args).await.map(drop)
    }

    /// An endpoint that is there, and nobody else changes it until this transaction ends.
    pub(crate) async fn lock_endpoint(&mut self, id: &str) -> sqlx::Result<Option<WebhookEndpoint>> {
        let sql = both("update webhook_endpoint set updated_at = updated_at where id = $1");
        self.run(sql, (id,)).await?;
        self.opt(both(select_endpoint!("where id = $1 and state <> 'deleted'")), (id,)).await
    }

    /// Every endpoint that hears of anything.
    pub(crate) async fn enabled_endpoints(&mut self) -> sqlx::Result<Vec<WebhookEndpoint>> {
        self.all(both(select_endpoint!("where state = 'enabled' order by id")), ()).await
    }

    /// Writes an event down; false where it can happen only once, and is written down already.
    pub(crate) async fn insert_outgoing_event(
        &mut self,
        id: &str,
        kind: &str,
        subject: &str,
        body: &str,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "insert into outgoing_event (id, kind, subject, body, created_at) values ($1, $2, $3, $4, $5)
             on conflict do nothing",
        );
        Ok(self.run(sql, (id, kind, subject, body, now)).await? == 1)
    }

    /// Puts an event on its way to an endpoint.
    pub(crate) async fn insert_delivery(
        &mut self,
        id: &str,
        endpoint_id: &str,
        event_id: &str,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "insert into webhook_delivery (id, endpoint_id, event_id, state, next_at, created_at, updated_at)
             values ($1, $2, $3, 'pending', $4, $4, $4)",
        );
        self.run(sql, (id, endpoint_id, event_id, now)).await.map(drop)
    }

    /// Records how an attempt at a delivery ended; false where it is settled already, or another attempt came first.
    pub(crate) async fn settle_delivery(
        &mut self,
        before: &WebhookDelivery,
        attempt: &DeliveryAttempt<'_>,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update webhook_delivery set state = $1, attempts = attempts + 1, status = $2, last_error = $3,
                 next_at = $4, updated_at = $5
             where id = $6 and state = 'pending' and attempts = $7",
        );
        let args = (
            attempt.state,
            attempt.status,
            attempt.error,
            attempt.next_at,
            attempt.now,
            &before.id,
            before.attempts,
        );
        Ok(self.run(sql, args).await? == 1)
    }

    /// Sends a delivery once more from the start, whatever became of it; false where there is none.
    pub(crate) async fn replay_delivery(&mut self, id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update webhook_delivery set state = 'pending', attempts = 0, next_at = $1, updated_at = $1
             where id = $2",
        );
        Ok(self.run(sql, (now, id)).await? == 1)
    }

    /// Sends whatever an endpoint did not take once more from the start. Answers how many.
    pub(crate) async fn replay_failed_deliveries(
        &mut self,
        endpoint_id: &str,
        now: i64,
    ) -> sqlx::Result<u64> {
        let sql = both(
            "update webhook_delivery set state = 'pending', attempts = 0, next_at = $1, updated_at = $1
             where endpoint_id = $2 and state = 'failed'",
        );
        self.run(sql, (now, endpoint_id)).await
    }

    /// What waits for another try at an endpoint is tried now.
    pub(crate) async fn hasten_deliveries(&mut self, endpoint_id: &str, now: i64) -> sqlx::Result<u64> {
        let sql = both(
            "update webhook_delivery set next_at = $1 where endpoint_id = $2 and state = 'pending' and next_at > $1",
        );
        self.run(sql, (now, endpoint_id)).await
    }
}

impl Store {
    /// An endpoint that is there.
    pub async fn endpoint(&self, id: &str) -> sqlx::Result<Option<WebhookEndpoint>> {
        self.db.opt(both(select_endpoint!("where id = $1 and state <> 'deleted'")), (id,)).await
    }

    /// One page of endpoints.
    pub async fn endpoints(&self, page: &Page) -> sqlx::Result<(Vec<WebhookEndpoint>, bool)> {
        let sql = paged!(page, select_endpoint!("where state <> 'deleted'"));
        Ok(page.cut(self.db.all(sql, (page.cursor(), page.fetched())).await?))
    }

    /// Deliveries to an endpoint that are due, oldest first.
    pub(crate) async fn due_deliveries(
        &self,
        endpoint_id: &str,
        now: i64,
        most: i64,
    ) -> sqlx::Result<Vec<WebhookDelivery>> {
        let sql = both(select_delivery!(
            "where endpoint_id = $1 and state = 'pending' and next_at <= $2 order by id limit $3 + 0"
        ));
        self.db.all(sql, (endpoint_id, now, most)).await
    }

    /// When the next delivery to an endpoint is due, in unix milliseconds.
    pub(crate) async fn next_delivery_at(&self, endpoint_id: &str) -> sqlx::Result<Option<i64>> {
        let sql = both(
            "select next_at from webhook_delivery where endpoint_id = $1 and state = 'pending'
             order by next_at limit 1",
        );
        let row: Option<(i64,)> = self.db.opt(sql, (endpoint_id,)).await?;
        Ok(row.map(|(at,)| at))
    }

    /// One delivery.
    pub async fn delivery(&self, id: &str) -> sqlx::Result<Option<WebhookDelivery>> {
        self.db.opt(both(select_delivery!("where id = $1")), (id,)).await
    }

    /// One page of deliveries.
    pub async fn deliveries(
        &self,
        page: &Page,
        filter: &DeliveryFilter,
    ) -> sqlx::Result<(Vec<WebhookDelivery>, bool)> {
        let sql =
            paged!(page, select_delivery!("where ($3 = '' or endpoint_id = $3) and ($4 = '' or state = $4)"));
        let args = (page.cursor(), page.fetched(), filter.endpoint_id.as_str(), filter.state.as_str());
        Ok(page.cut(self.db.all(sql, args).await?))
    }

    /// Forgets deliveries that were settled before a time, and events that nobody has to hear of any more.
    pub(crate) async fn prune_deliveries(&self, before: i64) -> sqlx::Result<u64> {
        let settled = both("delete from webhook_delivery where state <> 'pending' and updated_at < $1");
        let pruned = self.db.run(settled, (before,)).await?;
        let events = both(
            "delete from outgoing_event where created_at < $1
             and not exists (select 1 from webhook_delivery where event_id = outgoing_event.id)",
        );
        self.db.run(events, (before,)).await?;
        Ok(pruned)
    }
}
