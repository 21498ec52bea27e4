//! Charges: getting each sealed invoice paid, every try of it, and who is suspended for not paying.

use super::db::Sql;
use super::invoices::{Invoice, select_invoice};
use super::page::{Page, paged};
use super::{Store, Tx, both, split, unreadable};
use opentab_billing::dunning::{ChargeState, Known, Reason};

/// The charge of one invoice. Times in unix milliseconds, amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// `ot_chg_…`
    pub id: String,
    /// The sealed invoice to be paid, `ot_inv_…`; an invoice has one charge.
    pub invoice_id: String,
    /// The customer who owes the invoice, `ot_cus_…`.
    pub customer_id: String,
    /// `stripe` or `opentab`: who tries.
    pub collection: String,
    /// One of [`ChargeState::NAMES`].
    pub state: String,
    /// Why the last try failed.
    pub reason: Option<String>,
    /// How many tries failed for that reason: which rung of its ladder this is.
    pub tries: i64,
    /// How often an unclear try was looked at.
    pub looks: i64,
    /// What Stripe said, for people.
    pub message: Option<String>,
    /// When payment is due: Stripe's due date or, without one, when the invoice was finalized.
    pub due_at: i64,
    /// The next try; of a try under way, the next look at it.
    pub next_attempt_at: Option<i64>,
    /// When the customer is suspended for it.
    pub suspend_at: Option<i64>,
    /// `pi_…`, where it was paid through Stripe.
    pub stripe_payment_id: Option<String>,
    /// When Opentab recorded the payment; None until then.
    pub paid_at: Option<i64>,
    /// How much of the payment was refunded in all; the charge stays `paid`.
    pub refunded_amount: i64,
    /// The sum of the invoice's credit notes that are not void.
    pub credited_amount: i64,
    /// Stripe's word for where a dispute is; none where there is none.
    pub dispute: Option<String>,
    /// When the invoice was sealed and this charge began.
    pub created_at: i64,
    /// When this row last changed.
    pub updated_at: i64,
}

from_row!(Charge {
    id,
    invoice_id,
    customer_id,
    collection,
    state,
    reason,
    tries,
    looks,
    message,
    due_at,
    next_attempt_at,
    suspend_at,
    stripe_payment_id,
    paid_at,
    refunded_amount,
    credited_amount,
    dispute,
    created_at,
    updated_at
});

impl Charge {
    /// Its state, of the drawn graph.
    ///
    /// # Errors
    /// The database was edited by hand.
    pub fn state(&self) -> sqlx::Result<ChargeState> {
        ChargeState::from_parts(&self.state, self.reason.as_deref())
            .map_err(|error| unreadable("state of a charge", error))
    }

    /// Whether Opentab tries.
    pub(crate) fn is_ours(&self) -> bool {
        self.collection == "opentab"
    }

    /// As it was before a try that came to nothing, with its own time: whoever asked for something else has not asked for
    /// a payment.
    pub(crate) fn restored_from(self, before: &Charge) -> Charge {
        Charge {
            state: before.state.clone(),
            looks: before.looks,
            next_attempt_at: before.next_attempt_at,
            ..self
        }
    }

    /// Stripe has answered: it is no longer what could not be reached.
    pub fn answered(self) -> Charge {
        if self.reason.as_deref() == Some(Reason::Network.as_str()) {
            Charge { reason: None, tries: 0, ..self }
        } else {
            self
        }
    }

    /// How many tries in a row have failed for this reason, with one more.
    pub(crate) fn in_a_row_with(&self, reason: Reason) -> u32 {
        let before = if self.reason.as_deref() == Some(reason.as_str()) { self.tries } else { 0 };
        u32::try_from(before.saturating_add(1)).unwrap_or(u32::MAX)
    }

    /// What there is to decide from. A suspension that is carried out has no time any more.
    pub fn known(&self, under_way: bool, suspended: bool) -> sqlx::Result<Known> {
        Ok(Known {
            state: self.state()?,
            ours: self.is_ours(),
            under_way,
            next_attempt_at: self.next_attempt_at,
            suspend_at: self.suspend_at.filter(|_| !suspended),
        })
    }
}

/// A charge to begin, with its invoice.
#[derive(Clone, Debug)]
pub struct NewCharge<'a> {
    /// The new charge's id, `ot_chg_…`.
    pub id: &'a str,
    /// The invoice that is being sealed, `ot_inv_…`.
    pub invoice_id: &'a str,
    /// The customer who owes the invoice, `ot_cus_…`.
    pub customer_id: &'a str,
    /// `stripe` or `opentab`: who attempts the payment.
    pub collection: &'a str,
    /// The state that follows from the invoice, such as `Paid` if nothing is left to pay.
    pub state: ChargeState,
    /// When payment is due, in unix milliseconds.
    pub due_at: i64,
    /// When Opentab first attempts it, in unix milliseconds; None if Stripe collects or nothing is owed.
    pub next_attempt_at: Option<i64>,
    /// When the row is created, in unix milliseconds.
    pub now: i64,
}

/// One try: a write to Stripe about an invoice that is to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// `ot_att_…`
    pub id: String,
    /// The invoice that the attempt is about, `ot_inv_…`.
    pub invoice_id: String,
    /// `pay`, `void` or `mark_uncollectible`.
    pub action: String,
    /// The key sent to Stripe; a retry of an unanswered attempt repeats the earlier key.
    pub idempotency_key: String,
    /// Without `/v1`.
    pub path: String,
    /// The form-encoded request body, exactly as it is sent.
    pub body: String,
    /// Who asked: an API key's id, `operator`, or `charge` for the schedule.
    pub actor: String,
    /// `paid`, `done`, `failed`, `refused`, `no_answer`, `not_started`, `overtaken`; none while nobody knows.
    pub outcome: Option<String>,
    /// Why it failed, as a name of [`Reason`]; None unless the outcome is `failed` or `refused`.
    pub reason: Option<String>,
    /// What Stripe said about the outcome, for people; None if it said nothing.
    pub message: Option<String>,
    /// What failed at Stripe, `ch_…`, where it came to that.
    pub(crate) stripe_charge_id: Option<String>,
    /// Whether Stripe would repeat its failure under this key.
    pub(crate) key_spent: i64,
    /// Whether Stripe was still at work on an earlier request under this key.
    pub(crate) key_in_use: i64,
    /// The term of the writer's lease under which the attempt was recorded.
    pub lease_token: i64,
    /// When the attempt was recorded, just before the request to Stripe, in unix milliseconds.
    pub begun_at: i64,
    /// When its outcome was recorded, in unix milliseconds; None while the attempt is under way.
    pub settled_at: Option<i64>,
}

from_row!(Attempt {
    id,
    invoice_id,
    action,
    idempotency_key,
    path,
    body,
    actor,
    outcome,
    reason,
    message,
    stripe_charge_id,
    key_spent,
    key_in_use,
    lease_token,
    begun_at,
    settled_at
});

/// What a try without an answer says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyIs {
    /// Of use once more.
    Good,
    /// Stripe would repeat its failure under it.
    Spent,
    /// Stripe is still at work on an earlier request under it.
    InUse,
}

/// How a try ended.
#[derive(Clone, Debug)]
pub(crate) struct AttemptEnd<'a> {
    pub outcome: &'a str,
    pub reason: Option<Reason>,
    pub message: Option<&'a str>,
    /// What failed at Stripe, `ch_…`.
    pub(crate) stripe_charge_id: Option<&'a str>,
}

impl<'a> AttemptEnd<'a> {
    /// An end that is no failure.
    pub(crate) fn of(outcome: &'a str) -> AttemptEnd<'a> {
        AttemptEnd { outcome, reason: None, message: None, stripe_charge_id: None }
    }
}

/// Which charges a list shows; what is empty is any.
#[derive(Clone, Debug, Default)]
pub struct ChargeFilter {
    pub customer_id: String,
    pub state: String,
    pub reason: String,
    /// The month in which the invoice was due, by UTC: from and until, in unix milliseconds; 0 and the last for any.
    pub due: Option<(i64, i64)>,
}

/// Whether a customer is suspended, and how long they have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Since when, in unix milliseconds.
    pub suspended_at: Option<i64>,
    /// Days after a due date; none for what holds for all.
    pub suspension_grace_days: Option<i64>,
}

from_row!(Standing { suspended_at, suspension_grace_days });

macro_rules! charge {
    ($rest:literal) => {
        concat!(
            "select id, invoice_id, customer_id, collection, state, reason, tries, looks, message, due_at, ",
            "next_attempt_at, suspend_at, stripe_payment_id, paid_at, refunded_amount, credited_amount, dispute, ",
            "created_at, updated_at from charge ",
            $rest
        )
    };
}

/// Tries whose end is to be known before this.
const UNDER_WAY: Sql =
    both("select count(*) from charge where state = 'in_progress' and coalesce(next_attempt_at, 0) < $1");

macro_rules! attempt {
    ($rest:literal) => {
        concat!(
            "select id, invoice_id, action, idempotency_key, path, body, actor, outcome, reason, message, stripe_charge_id, ",
            "key_spent, key_in_use, lease_token, begun_at, settled_at from charge_attempt ",
            $rest
        )
    };
}

impl Store {
    /// The charge of an invoice; none before it is sealed.
    pub async fn charge(&self, invoice_id: &str) -> sqlx::Result<Option<Charge>> {
        self.db.opt(both(charge!("where invoice_id = $1")), (invoice_id,)).await
    }

    /// One page of charges.
    pub async fn charges(&self, page: &Page, filter: &ChargeFilter) -> sqlx::Result<(Vec<Charge>, bool)> {
        let sql = paged!(
            page,
            charge!(
                "where ($3 = '' or customer_id = $3) and ($4 = '' or state = $4) and ($5 = '' or reason = $5)
                   and due_at >= $6 and due_at < $7"
            )
        );
        let (from, until) = filter.due.unwrap_or((0, i64::MAX));
        let args = (
            page.cursor(),
            page.fetched(),
            filter.customer_id.as_str(),
            filter.state.as_str(),
            filter.reason.as_str(),
            from,
            until,
        );
        Ok(page.cut(self.db.all(sql, args).await?))
    }

    /// Charges behind this id whose next try or look is due, or was by then, but for those whose job waits for a human.
    pub(crate) async fn charges_due(&self, now: i64, after: &str, most: i64) -> sqlx::Result<Vec<Charge>> {
        let sql = both(charge!(
            "where next_attempt_at is not null and next_attempt_at <= $1 and id > $2 and not exists (
                 select 1 from job where kind = 'charge' and subject = invoice_id and job.state = 'failed')
             order by id limit $3 + 0"
        ));
        self.db.all(sql, (now, after, most)).await
    }

    /// Charges behind this id that Opentab tries, and that failed or wait for a human; with a reason, only those of it. Why
    /// one waits for a human may be unknown.
    pub(crate) async fn charges_failed(
        &self,
        reason: &str,
        due: (i64, i64),
        after: &str,
        most: i64,
    ) -> sqlx::Result<Vec<Charge>> {
        let sql = both(charge!(
            "where state in ('failed', 'needs_attention') and ($1 = '' or coalesce(reason, 'unknown') = $1)
               and due_at >= $2 and due_at < $3 and id > $4 and collection = 'opentab' order by id limit $5 + 0"
        ));
        self.db.all(sql, (reason, due.0, due.1, after, most)).await
    }

    /// Every try of an invoice, oldest first.
    pub async fn attempts(&self, invoice_id: &str) -> sqlx::Result<Vec<Attempt>> {
        self.db.all(both(attempt!("where invoice_id = $1 order by id")), (invoice_id,)).await
    }

    /// The try that nobody knows the end of.
    pub(crate) async fn attempt_under_way(&self, invoice_id: &str) -> sqlx::Result<Option<Attempt>> {
        self.db.opt(both(attempt!("where invoice_id = $1 and outcome is null")), (invoice_id,)).await
    }

    /// Whoever sent the tries under way is dead: the ends that were to be known before this are asked for now.
    pub async fn look_at_once(&self, now: i64, known_before: i64) -> sqlx::Result<u64> {
        let mut tx = self.db.begin().await?;
        let sql = both(
            "update charge set next_attempt_at = $1
             where state = 'in_progress' and looks = 0 and next_attempt_at > $1 and next_attempt_at < $2",
        );
        let found = tx.run(sql, (now, known_before)).await?;
        let sql = both(
            "update job set run_at = $1
             where kind = 'charge' and state = 'queued' and run_at > $1
                and subject in (select invoice_id from charge where state = 'in_progress' and next_attempt_at = $1)",
        );
        tx.run(sql, (now,)).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// How many tries are under way whose end is to be known before this, in unix milliseconds.
    pub(crate) async fn tries_under_way(&self, known_before: i64) -> sqlx::Result<i64> {
        let (count,): (i64,) = self.db.one(UNDER_WAY, (known_before,)).await?;
        Ok(count)
    }

    /// Where a customer stands; none where there is no such customer.
    pub async fn standing(&self, customer_id: &str) -> sqlx::Result<Option<Standing>> {
        let sql = both("select suspended_at, suspension_grace_days from customer where id = $1");
        self.db.opt(sql, (customer_id,)).await
    }

    /// How many charges there are by state and reason.
    pub async fn count_charges(&self) -> sqlx::Result<Vec<(String, String, i64)>> {
        let sql = both(
            "select state, case when state = 'failed' then coalesce(reason, '') else '' end, count(*)
             from charge group by 1, 2 order by 1, 2",
        );
        self.db.all(sql, ()).await
    }
}

impl Tx {
    /// Begins the charge of an invoice; one that is there stays as it is.
    pub async fn insert_charge(&mut self, new: &NewCharge<'_>) -> sqlx::Result<()> {
        let sql = both(
            "insert into charge (id, invoice_id, customer_id, collection, state, due_at, next_attempt_at, paid_at,
                                 created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
             on conflict do nothing",
        );
        let paid_at = (new.state == ChargeState::Paid).then_some(new.now);
        let args = (
            new.id,
            new.invoice_id,
            new.customer_id,
            new.collection,
            new.state.name(),
            new.due_at,
            new.next_attempt_at,
            paid_at,
            new.now,
        );
        self.run(sql, args).await.map(drop)
    }

    /// The charge of an invoice, and nobody else changes it until this transaction ends.
    pub async fn lock_charge(&mut self, invoice_id: &str) -> sqlx::Result<Option<Charge>> {
        self.run(both("update charge set updated_at = updated_at where invoice_id = $1"), (invoice_id,))
            .await?;
        self.opt(both(charge!("where invoice_id = $1")), (invoice_id,)).await
    }

    /// Invoices of a customer for which they are to be suspended, with their due dates.
    pub(crate) async fn invoices_to_suspend_for(
        &mut self,
        customer_id: &str,
    ) -> sqlx::Result<Vec<(String, i64)>> {
        let sql = both(
            "select invoice_id, due_at from charge
             where customer_id = $1 and suspend_at is not null and state not in ('paid', 'void', 'uncollectible')
             order by id",
        );
        self.all(sql, (customer_id,)).await
    }

    /// What of a customer has failed, and is still expected to be paid.
    pub(crate) async fn failed_charges_of(&mut self, customer_id: &str) -> sqlx::Result<Vec<Charge>> {
        self.all(both(charge!("where customer_id = $1 and state = 'failed' order by id")), (customer_id,))
            .await
    }

    /// Writes a charge down as it is now. The caller has asked [`ChargeState`] whether it may move.
    pub async fn put_charge(&mut self, charge: &Charge, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update charge set state = $1, reason = $2, tries = $3, looks = $4, message = $5, due_at = $6,
                 next_attempt_at = $7, suspend_at = $8, stripe_payment_id = $9, paid_at = $10, refunded_amount = $11,
                 credited_amount = $12, dispute = $13, updated_at = $14
             where invoice_id = $15",
        );
        let args = (
            &charge.state,
            &charge.reason,
            charge.tries,
            charge.looks,
            &charge.message,
            charge.due_at,
            charge.next_attempt_at,
            charge.suspend_at,
            &charge.stripe_payment_id,
            charge.paid_at,
            charge.refunded_amount,
            charge.credited_amount,
            &charge.dispute,
            now,
            &charge.invoice_id,
        );
        self.run(sql, args).await.map(drop)
    }

    /// Whether a charge still waits for Stripe, which has not answered so many times in a row.
    pub(crate) async fn waits_for_stripe(&mut self, tries: i64) -> sqlx::Result<bool> {
        let sql = both(
            "select 1 from charge
             where reason = 'network' and tries >= $1 and state in ('failed', 'in_progress') and next_attempt_at is not null
             limit 1",
        );
        let found: Option<(i32,)> = self.opt(sql, (tries,)).await?;
        Ok(found.is_some())
    }

    /// The same, and nobody else who counts begins another until this transaction ends, on any replica.
    pub(crate) async fn tries_under_way(&mut self, known_before: i64) -> sqlx::Result<i64> {
        // On SQLite whoever writes is alone already.
        self.run(split("select pg_advisory_xact_lock(7410031)", "select 1"), ()).await?;
        let (count,): (i64,) = self.one(UNDER_WAY, (known_before,)).await?;
        Ok(count)
    }

    /// Writes a try down before Stripe is asked. The schema refuses a second one beside one under way.
    pub(crate) async fn insert_attempt(&mut self, new: &Attempt) -> sqlx::Result<()> {
        let sql = both(
            "insert into charge_attempt (id, invoice_id, action, idempotency_key, path, body, actor, lease_token, begun_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        );
        let args = (
            &new.id,
            &new.invoice_id,
            &new.action,
            &new.idempotency_key,
            &new.path,
            &new.body,
            &new.actor,
            new.lease_token,
            new.begun_at,
        );
        self.run(sql, args).await.map(drop)
    }

    /// Every try of an invoice, oldest first.
    pub async fn attempts(&mut self, invoice_id: &str) -> sqlx::Result<Vec<Attempt>> {
        self.all(both(attempt!("where invoice_id = $1 order by id")), (invoice_id,)).await
    }

    /// Settles whatever try of an invoice is under way; false where none is.
    pub(crate) async fn settle_attempt(
        &mut self,
        invoice_id: &str,
        end: &AttemptEnd<'_>,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update charge_attempt
             set outcome = $1, reason = $2, message = coalesce($3, message), settled_at = $4, stripe_charge_id = $5
             where invoice_id = $6 and outcome is null",
        );
        let reason = end.reason.map(Reason::as_str);
        let args = (end.outcome, reason, end.message, now, end.stripe_charge_id, invoice_id);
        Ok(self.run(sql, args).await? == 1)
    }

    /// How many tries to charge this invoice have failed for this reason.
    pub async fn failed_for(&mut self, invoice_id: &str, reason: Reason) -> sqlx::Result<i64> {
        let sql = both(
            "select count(*) from charge_attempt where invoice_id = $1 and action = 'pay' and reason = $2",
        );
        let (count,): (i64,) = self.one(sql, (invoice_id, reason.as_str())).await?;
        Ok(count)
    }

    /// What is known of the try under way: why there was no answer, and what that says of its key.
    pub(crate) async fn attempt_unclear(
        &mut self,
        invoice_id: &str,
        why: &str,
        key: KeyIs,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update charge_attempt set message = $1, key_spent = case when $2 = 1 then 1 else key_spent end,
                 key_in_use = $3
             where invoice_id = $4 and outcome is null",
        );
        let (spent, in_use) = (i64::from(key == KeyIs::Spent), i64::from(key == KeyIs::InUse));
        self.run(sql, (why, spent, in_use, invoice_id)).await.map(drop)
    }

    /// The invoice that this payment paid. Only its id: whoever acts on it locks it first.
    pub(crate) async fn invoice_of_payment(
        &mut self,
        stripe_payment_id: &str,
    ) -> sqlx::Result<Option<String>> {
        let sql = both("select invoice_id from charge where stripe_payment_id = $1");
        let row: Option<(String,)> = self.opt(sql, (stripe_payment_id,)).await?;
        Ok(row.map(|(id,)| id))
    }

    /// Keeps a credit note, one that is void for ever as such; answers what the invoice's credit notes come to.
    pub(crate) async fn put_credit_note(
        &mut self,
        id: &str,
        invoice_id: &str,
        amount: i64,
        void: bool,
    ) -> sqlx::Result<i64> {
        let sql = both(
            "insert into credit_note (id, invoice_id, amount, void) values ($1, $2, $3, $4)
             on conflict (id) do update set void = case when credit_note.void = 1 then 1 else excluded.void end",
        );
        self.run(sql, (id, invoice_id, amount, i64::from(void))).await?;
        let sum = both(
            "select cast(coalesce(sum(amount), 0) as bigint) from credit_note where invoice_id = $1 and void = 0",
        );
        let (sum,): (i64,) = self.one(sum, (invoice_id,)).await?;
        Ok(sum)
    }

    /// Refunds and disputes of this payment that came when nobody knew whose it was are reacted to now, also one that
    /// somebody is looking at this moment. Answers what they are about.
    pub(crate) async fn payment_events_again(
        &mut self,
        stripe_payment_id: &str,
    ) -> sqlx::Result<Vec<(String,)>> {
        let sql = both(
            "update stripe_event set state = 'pending', reason = null, handled_at = null
             where state in ('ignored', 'pending') and object_id is not null
               and kind in ('charge.refunded', 'charge.dispute.created', 'charge.dispute.closed')
               and payload like '%\"' || $1 || '\"%'
             returning object_id",
        );
        self.all(sql, (stripe_payment_id,)).await
    }

    /// The invoice that Stripe calls so, and nobody else changes or seals it until this transaction ends.
    pub(crate) async fn lock_invoice_at_stripe(
        &mut self,
        stripe_invoice_id: &str,
    ) -> sqlx::Result<Option<Invoice>> {
        let lock = both("update invoice set updated_at = updated_at where stripe_invoice_id = $1");
        self.run(lock, (stripe_invoice_id,)).await?;
        self.opt(select_invoice!("where stripe_invoice_id = $1"), (stripe_invoice_id,)).await
    }

    /// Where a customer stands.
    pub async fn standing(&mut self, customer_id: &str) -> sqlx::Result<Option<Standing>> {
        let sql = both("select suspended_at, suspension_grace_days from customer where id = $1");
        self.opt(sql, (customer_id,)).await
    }

    /// Nobody else changes where a customer stands until this transaction ends. No stronger lock: whoever has written a row
    /// that refers to the customer shares it already, and two of those would wait for each other for ever.
    pub async fn lock_standing(&mut self, customer_id: &str) -> sqlx::Result<()> {
        let sql = both("update customer set updated_at = updated_at where id = $1");
        self.run(sql, (customer_id,)).await.map(drop)
    }

    /// Suspends a customer; false where they are suspended already.
    pub(crate) async fn suspend_customer(&mut self, customer_id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer set suspended_at = $1, updated_at = $1 where id = $2 and suspended_at is null",
        );
        Ok(self.run(sql, (now, customer_id)).await? == 1)
    }

    /// Restores a customer for whom no unpaid invoice asks for suspension any more; false where there is nothing to do. One
    /// that was written off is still unpaid.
    pub(crate) async fn restore_customer(&mut self, customer_id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer set suspended_at = null, updated_at = $1
             where id = $2 and suspended_at is not null and not exists (
                 select 1 from charge where charge.customer_id = $2 and charge.suspend_at is not null
                    and charge.suspend_at <= $1 and charge.state not in ('paid', 'void'))",
        );
        Ok(self.run(sql, (now, customer_id)).await? == 1)
    }

    /// Closes every incident about an invoice's charge. A dispute goes on, whatever becomes of that.
    pub(crate) async fn resolve_charge_incidents(&mut self, invoice_id: &str, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update incident set resolved_at = $1
             where subject = $2 and kind like 'charge\\_%' escape '\\' and kind <> 'charge_disputed'
                and resolved_at is null",
        );
        self.run(sql, (now, invoice_id)).await.map(drop)
    }

    /// Makes what stands on a sealed invoice owed again: all of it, or what a human took off it before it was finalized.
    /// Answers on how many lines that made a difference.
    pub async fn rebill(&mut self, invoice_id: &str, all: bool, fold_key: &str) -> sqlx::Result<u64> {
        let sql = both(
            "update invoice_line
             set rebilled_amount = case when $2 = 1 then amount else amount - coalesce(stripe_amount, amount) end
             where invoice_id = $1 and item_key <> $3
               and rebilled_amount <> case when $2 = 1 then amount else amount - coalesce(stripe_amount, amount) end",
        );
        self.run(sql, (invoice_id, i64::from(all), fold_key)).await
    }

    /// Marks every cycle that has a line on this invoice as changed, so that the next sync bills what is owed.
    pub(crate) async fn cycles_of_invoice_changed(&mut self, invoice_id: &str) -> sqlx::Result<u64> {
        let sql = both(
            "update billing_cycle set version = version + 1
             where customer_id = (select customer_id from invoice where id = $1)
               and cycle in (select substr(item_key, 1, 10) from invoice_line where invoice_id = $1)",
        );
        self.run(sql, (invoice_id,)).await
    }
}
