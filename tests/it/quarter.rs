//! A simulated quarter: five customers, every price model, faults now and then, and every promise checked at its end.

use chrono::Datelike;
use opentab::internals::store::customers::Customer;
use opentab_billing::Aggregation;
use opentab_billing::CollectionMethod;
use opentab_sandbox::Fault;
use serde_json::json;

use crate::tab::Tab;

/// One price of each model, and what so many units of each cost in a month.
async fn sell_everything(t: &Tab, customer: &Customer, who: usize) {
    let name = |what: &str| format!("{what}{who}");
    t.flat_fee(customer, &name("base"), 900).await;
    t.sells(customer, &name("calls"), "0.25").await;
    let tiers = json!([{ "up_to": 100, "unit_amount_decimal": "3" }, { "unit_amount_decimal": "1" }]);
    t.sells_at(customer, &name("graduated"), json!({ "model": "graduated", "tiers": tiers })).await;
    t.sells_at(customer, &name("volume"), json!({ "model": "volume", "tiers": tiers })).await;
    let package = json!({ "model": "package", "package_size": "100", "package_amount": 250 });
    t.sells_at(customer, &name("package"), package).await;
    let minimum = json!({ "model": "per_unit", "unit_amount_decimal": "2", "included_quantity": "50", "minimum_amount": 300 });
    t.sells_at(customer, &name("minimum"), minimum).await;
    let terms =
        json!({ "model": "per_unit", "unit_amount_decimal": "7", "currency": customer.currency.as_str() });
    let meter = t.meter(&name("seats"), Aggregation::Max).await;
    let price = t.price(&name("seats"), Some(&meter), serde_json::from_value(terms).unwrap()).await;
    t.serves(customer, &price).await;
}

const METERS: &[&str] = &["calls", "graduated", "volume", "package", "minimum", "seats"];

/// What a month with `units` of each meter in all, `peak` at most at once, costs: worked out by hand from the prices.
fn month(units: i64, peak: i64) -> i64 {
    let calls = (units * 25 + 50) / 100;
    let graduated = units.min(100) * 3 + (units - 100).max(0);
    let volume = if units <= 100 { units * 3 } else { units };
    let package = (units + 99) / 100 * 250;
    let minimum = ((units - 50).max(0) * 2).max(300);
    900 + calls + graduated + volume + package + minimum + peak * 7
}

async fn company(t: &Tab) -> Vec<Customer> {
    let mut all = Vec::new();
    for (who, currency) in ["usd", "eur", "jpy", "usd", "gbp"].into_iter().enumerate() {
        let collection = match who % 2 {
            0 => CollectionMethod::ChargeAutomatically,
            _ => CollectionMethod::SendInvoice,
        };
        let customer = t.customer_with(&format!("Customer{who}"), currency, collection).await;
        sell_everything(t, &customer, who).await;
        all.push(customer);
    }
    all
}

/// Usage comes every day, and a sync every so many days.
async fn simulate(sync_every: i32, faults: &[(Fault, u32)]) {
    let t = Tab::new().await;
    let all = company(&t).await;
    for (fault, per_mille) in faults {
        t.sandbox.faults().often("", fault.clone(), *per_mille);
    }
    let mut day = crate::tab::time("2026-11-01T12:00:00Z");
    let end = crate::tab::time("2027-02-01T12:00:00Z");
    while day < end {
        t.clock.move_to(day);
        for (who, customer) in all.iter().enumerate() {
            for meter in METERS {
                let id = format!("{meter}{}", day.format("%F"));
                t.uses(customer, &format!("{meter}{who}"), 1 + 3 * who as i64, &id).await;
            }
        }
        if day.num_days_from_ce() % sync_every == 0 {
            t.recover().await;
        }
        day += chrono::Duration::days(1);
    }
    t.sandbox.faults().clear();
    t.clock.move_to(end);
    t.recover().await;
    for (who, customer) in all.iter().enumerate() {
        let each = 1 + 3 * who as i64;
        let expected: i64 = [30, 31, 31].iter().map(|days| month(days * each, each)).sum();
        assert_eq!(t.billed(customer).await, expected, "customer {who}");
        let cycles: Vec<String> = t.sealed(customer).await.into_iter().map(|i| i.cycle).collect();
        assert_eq!(cycles, ["2026-11-01", "2026-12-01", "2027-01-01"], "customer {who}");
        assert_eq!(t.invoices_at_stripe(customer).await.len(), 4, "customer {who}");
        t.in_step(customer).await;
    }
    assert!(t.jobs("failed").await.is_empty());
}

#[tokio::test]
async fn a_quarter_is_billed_to_the_cent() {
    simulate(3, &[]).await;
}

#[tokio::test]
async fn a_quarter_of_faults_is_billed_to_the_cent() {
    let faults = [
        (Fault::LoseAnswer, 60),
        (Fault::DropBefore, 40),
        (Fault::Status { status: 500, code: None, stored: true, executed: true }, 20),
        (Fault::LockTimeout, 30),
        (Fault::WebhookDrop, 100),
        (Fault::WebhookDuplicate, 100),
    ];
    simulate(1, &faults).await;
}
