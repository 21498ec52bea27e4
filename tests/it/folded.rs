//! More lines than Stripe takes: the smallest become one, the total stays exact, and the ledger knows each.

use opentab::internals::store::customers::Customer;
use opentab_sandbox::Fault;

use crate::tab::{Setup, Tab};

/// A customer with so many services, on whose drafts there is room for `room` lines.
async fn with_services(count: usize, room: &'static str) -> (Tab, Customer) {
    let setup = Setup { settings: vec![("OPENTAB_LINES_PER_INVOICE", room)], ..Setup::default() };
    let t = Tab::with(setup).await;
    let ada = t.customer("Ada").await;
    for n in 0..count {
        t.sells(&ada, &format!("m{n}"), "1").await;
    }
    (t, ada)
}

/// Meter n is used n + 1 times: so the first ones are the smallest.
async fn use_all(t: &Tab, ada: &Customer, count: usize, tag: &str) {
    for n in 0..count {
        t.uses(ada, &format!("m{n}"), n as i64 + 1, &format!("{tag}{n}")).await;
    }
}

#[tokio::test]
async fn three_hundred_lines_become_250_and_each_is_in_the_ledger() {
    let (t, ada) = with_services(300, "250").await;
    use_all(&t, &ada, 300, "november").await;
    t.settle().await;
    assert_eq!((t.draft(&ada).await.len(), t.draft_total(&ada).await), (250, 300 * 301 / 2));
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 300 * 301 / 2);
    let sealed = t.sealed(&ada).await.remove(0);
    let lines = t.app.store.ledger_lines(&sealed.id).await.unwrap();
    assert_eq!(lines.iter().filter(|line| line.amount != 0).count(), 300);
    // What is owed of each line is known: one more of the smallest is one cent, and a correction of another is its own.
    t.used(&ada, "m0", 1, "late", "2026-11-30T00:00:00Z").await;
    t.used(&ada, "m5", -6, "correction", "2026-11-30T00:00:00Z").await;
    t.settle().await;
    let mut amounts: Vec<i64> = t.draft(&ada).await.into_values().collect();
    amounts.sort();
    assert_eq!(amounts, [-6, 1]);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_folded_line_whose_parts_change_and_whose_sum_does_not_bills_the_new_parts() {
    let (t, ada) = with_services(8, "4").await;
    use_all(&t, &ada, 8, "november").await;
    t.settle().await;
    t.sandbox.reset_calls();
    t.uses(&ada, "m0", 1, "up").await;
    t.uses(&ada, "m1", -1, "down").await;
    t.settle().await;
    assert_eq!(t.sandbox.calls(), [], "Stripe's line stays as it is");
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (36, 0));
    // Taking one part back gives back what that part was billed with.
    t.used(&ada, "m0", -2, "correction", "2026-11-30T00:00:00Z").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, -2);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn lines_move_into_and_out_of_the_folded_one() {
    let (t, ada) = with_services(6, "4").await;
    use_all(&t, &ada, 4, "few").await;
    t.settle().await;
    assert_eq!(t.draft(&ada).await.len(), 4);
    t.uses(&ada, "m5", 100, "more5").await;
    t.uses(&ada, "m4", 50, "more4").await;
    t.settle().await;
    assert_eq!((t.draft(&ada).await.len(), t.draft_total(&ada).await), (4, 160));
    t.in_step(&ada).await;
    t.uses(&ada, "m0", 900, "grows").await;
    t.uses(&ada, "m5", -100, "shrinks5").await;
    t.uses(&ada, "m4", -50, "shrinks4").await;
    t.settle().await;
    assert_eq!((t.draft(&ada).await.len(), t.draft_total(&ada).await), (4, 910));
    t.in_step(&ada).await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (910, 0));
}

#[tokio::test]
async fn a_folded_line_whose_answer_was_lost_for_ever_is_billed_once() {
    let (t, ada) = with_services(8, "4").await;
    t.settle().await;
    let stored = Fault::Status { status: 500, code: None, stored: true, executed: true };
    t.sandbox.faults().next("POST /v1/invoices/{invoice}/add_lines", stored);
    use_all(&t, &ada, 8, "november").await;
    t.work().await;
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.recover().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (36, 0));
    t.in_step(&ada).await;
}

/// November is billed and something of it came late: it stands on December's draft, in step, beside `december` more
/// lines, where there is room for four. Then December changes, only the first half of what follows reaches Stripe, and
/// somebody finalizes the draft. In the end the late line is billed all the same.
async fn a_late_line_survives_half_a_plan(december: usize, changes: &[(&str, i64)], in_all: i64) {
    let (t, ada) = with_services(5, "4").await;
    t.uses(&ada, "m0", 100, "november").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    t.used(&ada, "m0", 5, "late", "2026-11-30T00:00:00Z").await;
    for n in 1..=december {
        t.uses(&ada, &format!("m{n}"), 10 * n as i64, &format!("december{n}")).await;
    }
    t.settle().await;
    t.in_step(&ada).await;
    t.sandbox.faults().often("POST /v1/invoices/{invoice}/add_lines", Fault::DropBefore, 1_000);
    for (meter, quantity) in changes {
        t.uses(&ada, meter, *quantity, "change").await;
    }
    t.work().await;
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.sandbox.faults().clear();
    t.recover().await;
    assert_eq!(t.billed(&ada).await + t.draft_total(&ada).await, in_all);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_line_on_its_way_into_the_folded_one_is_not_lost_by_a_finalization_by_hand() {
    a_late_line_survives_half_a_plan(3, &[("m4", 40)], 205).await;
}

#[tokio::test]
async fn a_line_on_its_way_out_of_the_folded_one_is_not_lost_by_a_finalization_by_hand() {
    a_late_line_survives_half_a_plan(4, &[("m2", -20)], 185).await;
}
