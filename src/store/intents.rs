//! Intents: every write to Stripe, recorded with its key and exact body before it is sent.

use serde::{Deserialize, Serialize};

use super::{Item, Store, Tx, both};

/// What becomes true on our side when Stripe acknowledges an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Effect {
    CreateCustomer,
    OpenInvoice,
    AddLines {
        items: Vec<Item>,
    },
    UpdateLines {
        items: Vec<Item>,
    },
    RemoveLines {
        item_keys: Vec<String>,
    },
    /// Unix milliseconds.
    SetDueDate {
        due_at: i64,
    },
    Finalize,
    DeletePendingItem,
    /// Stripe e-mails an invoice.
    SendInvoice {
        email_id: String,
    },
    /// A second draft of ours, opened by a write that had been given up.
    DeleteStrayDraft,
}

/// Kept as text on both databases.
impl TryFrom<String> for Effect {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Effect, serde_json::Error> {
        serde_json::from_str(&text)
    }
}

/// A write to Stripe.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: String,
    pub customer_id: String,
    pub invoice_id: Option<String>,
    /// Names this row, never the value that is written: 400, 500, 400 would repeat a key.
    pub idempotency_key: String,
    /// `POST`, or `DELETE`, which is idempotent by itself.
    pub method: String,
    /// Without `/v1`.
    pub path: String,
    pub body: String,
    pub effect: Effect,
    /// How often no answer came.
    pub attempts: i64,
    pub created_at: i64,
}

from_row!(Intent {
    id,
    customer_id,
    invoice_id,
    idempotency_key,
    method,
    path,
    body,
    effect: String,
    attempts,
    created_at
});

/// An intent as an event of Stripe's names it, by its key.
#[derive(Clone, Debug)]
pub(crate) struct KnownIntent {
    pub id: String,
    pub customer_id: String,
    pub invoice_id: Option<String>,
    pub effect: Effect,
    /// `open`, `done`, `refused` or `abandoned`.
    pub state: String,
    pub created_at: i64,
}

from_row!(KnownIntent { id, customer_id, invoice_id, effect: String, state, created_at });

impl KnownIntent {
    /// Whether it was given up without an answer: what it did after all is no longer what we plan from.
    pub(crate) fn was_given_up(&self) -> bool {
        self.state == "abandoned"
    }
}

/// An intent to record.
#[derive(Clone, Debug)]
pub(crate) struct NewIntent {
    pub id: String,
    pub customer_id: String,
    pub invoice_id: Option<String>,
    pub method: String,
    pub path: String,
    pub body: String,
    pub effect: Effect,
    pub lease_token: i64,
    pub now: i64,
}

/// How an intent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Stripe has it.
    Done,
    /// Stripe refused it: a new intent may follow.
    Refused,
    /// Never sent, or found by reading that it did not happen.
    Abandoned,
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Ending::Done => "done",
            Ending::Refused => "refused",
            Ending::Abandoned => "abandoned",
        }
    }
}

impl Tx {
    /// Records a write before it is sent. Its id is its idempotency key.
    pub(crate) async fn insert_intent(&mut self, new: &NewIntent) -> sqlx::Result<Intent> {
        let sql = both(
            "insert into intent (id, customer_id, invoice_id, idempotency_key, method, path, body, effect, state, lease_token, created_at)
             values ($1, $2, $3, $1, $4, $5, $6, $7, 'open', $8, $9)",
        );
        let effect = serde_json::to_string(&new.effect).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let args = (
            &new.id,
            &new.customer_id,
            &new.invoice_id,
            &new.method,
            &new.path,
            &new.body,
            effect,
            new.lease_token,
            new.now,
        );
        self.run(sql, args).await?;
        Ok(Intent {
            id: new.id.clone(),
            customer_id: new.customer_id.clone(),
            invoice_id: new.invoice_id.clone(),
            idempotency_key: new.id.clone(),
            method: new.method.clone(),
            path: new.path.clone(),
            body: new.body.clone(),
            effect: new.effect.clone(),
            attempts: 0,
            created_at: new.now,
        })
    }

    /// Settles every open intent of a customer who is gone at Stripe: nobody asks again, and
    /// whoever reads what is there takes them for sent.
    pub(crate) async fn abandon_intents(
        &mut self,
        customer_id: &str,
        why: &str,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update intent set state = 'abandoned', attempts = attempts + 1, error = $1, settled_at = $2
             where customer_id = $3 and state = 'open'",
        );
        self.run(sql, (why, now, customer_id)).await.map(|_| ())
    }

    /// The intent that a key names, and its state; none where the key is not ours.
    pub(crate) async fn intent_named(&mut self, key: &str) -> sqlx::Result<Option<KnownIntent>> {
        let sql = both(
            "select id, customer_id, invoice_id, effect, state, created_at from intent where idempotency_key = $1",
        );
        self.opt(sql, (key,)).await
    }

    /// Whether we have asked Stripe to finalize this invoice, and it did not refuse.
    pub(crate) async fn asked_to_finalize(&mut self, invoice_id: &str) -> sqlx::Result<bool> {
        let sql = both(
            "select id from intent where invoice_id = $1 and path like '%/finalize' and state <> 'refused' limit 1",
        );
        let found: Option<(String,)> = self.opt(sql, (invoice_id,)).await?;
        Ok(found.is_some())
    }

    /// Settles an intent; false where it was settled before.
    pub(crate) async fn settle_intent(
        &mut self,
        id: &str,
        ending: Ending,
        error: Option<&str>,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update intent set state = $1, error = $2, settled_at = $3 where id = $4 and state = 'open'",
        );
        Ok(self.run(sql, (ending.as_str(), error, now, id)).await? == 1)
    }
}

/// Of few intents: those that are done are many.
macro_rules! unsure {
    () => {
        "select id, customer_id, invoice_id, idempotency_key, method, path, body, effect, attempts, created_at
         from intent
         where invoice_id = $1 and state in ('open', 'abandoned') and (state = 'open' or attempts > 0)
         order by created_at desc, id desc"
    };
}

impl Store {
    /// Writes of a customer that nobody knows the end of, in the order in which they were recorded.
    pub async fn open_intents(&self, customer_id: &str) -> sqlx::Result<Vec<Intent>> {
        let sql = both(
            "select id, customer_id, invoice_id, idempotency_key, method, path, body, effect, attempts, created_at
             from intent where customer_id = $1 and state = 'open' order by id",
        );
        self.db.all(sql, (customer_id,)).await
    }

    /// Writes to an invoice that may have taken effect though no answer ever said so, the newest first.
    pub(crate) async fn unsure_intents(&self, invoice_id: &str) -> sqlx::Result<Vec<Intent>> {
        self.db.all(both(unsure!()), (invoice_id,)).await
    }

    /// No answer came: that counts for so many attempts.
    pub(crate) async fn intent_unanswered(
        &self,
        id: &str,
        error: &str,
        counts: i64,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update intent set attempts = attempts + $1, error = $2, first_sent_at = coalesce(first_sent_at, $3)
             where id = $4 and state = 'open'",
        );
        self.db.run(sql, (counts, error, now, id)).await.map(|_| ())
    }

    /// Customers with writes that nobody knows the end of.
    pub(crate) async fn customers_with_open_intents(&self) -> sqlx::Result<Vec<(String,)>> {
        self.db.all(both("select distinct customer_id from intent where state = 'open'"), ()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Db, Location};

    #[tokio::test]
    async fn what_is_unsure_is_found_without_reading_every_intent_there_ever_was() {
        let db = Db::open(&Location::Memory).await.unwrap();
        db.migrate().await.unwrap();
        let plan = both(concat!("explain query plan ", unsure!()));
        let steps: Vec<(i64, i64, i64, String)> = db.all(plan, ("ot_inv_x",)).await.unwrap();
        assert!(steps.iter().any(|step| step.3.contains("intent_in_doubt")), "{steps:?}");
    }
}
