//! Judge: how many tries were under way, where each charge is, and what Stripe was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentab::internals::store::{Sql, both};
use opentab_sandbox::CardOutcome;
use tokio::task::JoinHandle;

use crate::company::{Company, card};

/// Looks all the time.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    task: JoinHandle<i64>,
}

pub(crate) fn watch(company: &Arc<Company>) -> Watch {
    let over = Arc::new(AtomicBool::new(false));
    let (company, done) = (company.clone(), over.clone());
    let task = tokio::spawn(async move {
        let mut most = 0;
        while !done.load(Ordering::SeqCst) {
            let sql = both("select count(*) from charge where state = 'in_progress'");
            let (count,): (i64,) = company.db.one(sql, ()).await.unwrap();
            most = most.max(count);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        most
    });
    Watch { over, task }
}

impl Watch {
    /// How many were under way at most.
    pub(crate) async fn most(self) -> i64 {
        self.over.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

/// Waits until every charge has been tried, and how that ended is known.
pub(crate) async fn nothing_is_under_way(company: &Company) {
    none(company, both("select count(*) from charge where $1 > 0 and state in ('pending', 'in_progress')"))
        .await;
}

/// Waits until no charge is due or under way either, or waits for Stripe to answer.
pub(crate) async fn nothing_is_left_to_do(company: &Company) {
    let sql = both(
        "select count(*) from charge
         where state in ('pending', 'in_progress') or (state = 'failed' and reason = 'network')
            or (next_attempt_at is not null and next_attempt_at <= $1)",
    );
    none(company, sql).await;
}

async fn none(company: &Company, sql: Sql) {
    loop {
        let (left,): (i64,) = company.db.one(sql, (company.now_ms(),)).await.unwrap();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// After so many tries of the ladder.
pub(crate) async fn everybody_is_where_their_card_says(company: &Company, tries: usize) {
    let sql = both(
        "select cu.stripe_customer_id, ch.state, ch.reason,
                (select count(*) from charge_attempt a where a.invoice_id = ch.invoice_id and a.outcome = 'paid'),
                (select count(*) from charge_attempt a where a.invoice_id = ch.invoice_id and a.outcome = 'failed')
         from charge ch join customer cu on cu.id = ch.customer_id",
    );
    let rows: Vec<(String, String, Option<String>, i64, i64)> = company.db.all(sql, ()).await.unwrap();
    assert_eq!(rows.len(), company.cards.len(), "one charge for each");
    for (customer, state, reason, paid, failed) in rows {
        let no = company.cards.iter().position(|(id, _)| *id == customer).unwrap();
        let (failures, wanted) = match card(no) {
            CardOutcome::Succeeds => (0, "paid"),
            CardOutcome::Declined("insufficient_funds") if tries == 2 && no % 20 == 3 => (1, "paid"),
            CardOutcome::Declined("insufficient_funds") => (tries as i64, "insufficient_funds"),
            CardOutcome::Declined("lost_card") => (1, "do_not_try_again"),
            _ => (1, "declined"),
        };
        let is = if state == "failed" { reason.unwrap_or_default() } else { state };
        assert_eq!((is.as_str(), failed), (wanted, failures), "customer {no} after {tries} tries");
        assert_eq!(paid, i64::from(wanted == "paid"), "customer {no}");
    }
}

/// For each invoice one request to pay was carried out. Whatever came after it bore the same key, so that it could not
/// have been a second charge wherever it went.
pub(crate) fn nobody_was_charged_twice(company: &Company) {
    let asked = company.asked.lock().unwrap();
    for (path, requests) in asked.iter() {
        let Some(first) = requests.iter().position(|asked| asked.status == 200) else { continue };
        let key = &requests[first].key;
        assert!(requests[first..].iter().all(|asked| asked.key == *key), "{path}: {requests:?}");
    }
    let paid = asked.values().filter(|asked| asked.iter().any(|asked| asked.status == 200)).count();
    let good =
        (0..company.cards.len()).filter(|no| card(*no) == CardOutcome::Succeeds || no % 20 == 3).count();
    assert_eq!(paid, good);
}
