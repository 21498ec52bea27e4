//! The life of a cycle: usage in, the right draft on Stripe, finalized, the next one opened.

use crate::tab::Tab;

#[tokio::test]
async fn usage_becomes_a_line_on_the_draft() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [200]);
}

#[tokio::test]
async fn a_cycle_ends_as_a_finalized_invoice_and_the_next_draft_opens() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
    let next = t.current(&ada).await;
    assert_eq!((next.cycle.as_str(), next.state.as_str()), ("2026-12-01", "draft"));
    assert!(t.draft(&ada).await.is_empty());
}
