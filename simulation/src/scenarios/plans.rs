//! Plans: who is billed for what in the scenarios.

use crate::company::Cost;
use crate::story::Plan;

pub(super) fn customer(services: Vec<(Option<usize>, Cost)>) -> Vec<Plan> {
    vec![Plan { zone: chrono_tz::Europe::Berlin, anchor: 1, currency: "usd", send_invoice: false, services }]
}

pub(super) fn one() -> Vec<Plan> {
    customer(vec![(None, Cost::Flat(1_500)), (Some(0), Cost::PerUnit(300))])
}

pub(super) fn metered() -> Vec<Plan> {
    customer(vec![(Some(0), Cost::PerUnit(300))])
}

pub(super) fn peak() -> Vec<Plan> {
    customer(vec![(Some(1), Cost::PerUnit(300))])
}

pub(super) fn sent() -> Vec<Plan> {
    one().into_iter().map(|plan| Plan { send_invoice: true, ..plan }).collect()
}

pub(super) fn three_prices() -> Vec<Plan> {
    customer(vec![
        (None, Cost::Flat(1_500)),
        (Some(0), Cost::PerUnit(300)),
        (Some(0), Cost::Package { size: 4, at: 1_000 }),
    ])
}

pub(super) fn five_prices() -> Vec<Plan> {
    let mut plans = three_prices();
    plans[0].services.push((Some(0), Cost::Graduated { first: 3, at: 500, then: 100 }));
    plans[0].services.push((None, Cost::Flat(9_900)));
    plans
}

pub(super) fn twelve_prices() -> Vec<Plan> {
    customer((1..=12).map(|no| (Some(0), Cost::PerUnit(100 * no))).collect())
}
