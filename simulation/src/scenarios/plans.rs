//! Plans: who is billed for what in the scenarios.

use crate::company::Cost;
use crate::story::Plan;

pub fn customer(services: Vec<(Option<usize>, Cost)>) -> Vec<Plan> {
    vec![Plan { zone: chrono_tz::Europe::Berlin, anchor: 1, currency: "usd", send_invoice: false, services }]
}

pub fn one() -> Vec<Plan> {
    customer(vec![(None, Cost::Flat(1_500)), (Some(0), Cost::PerUnit(300))])
}

pub fn metered() -> Vec<Plan> {
    customer(vec![(Some(0), Cost::PerUnit(300))])
}

pub fn peak() -> Vec<Plan> {
    customer(vec![(Some(1), Cost::PerUnit(300))])
}

pub fn sent() -> Vec<Plan> {
    one().into_iter().map(|plan| Plan { send_invoice: true, ..plan }).collect()
}

pub fn three_prices() -> Vec<Plan> {
    customer(vec![
        (None, Cost::Flat(1_500)),
        (Some(0), Cost::PerUnit(300)),
        (Some(0), Cost::Package { size: 4, at: 1_000 }),
    ])
}

pub fn five_prices() -> Vec<Plan> {
    let mut plans = three_prices();
    plans[0].services.push((Some(0), Cost::Graduated { first: 3, at: 500, then: 100 }));
    plans[0].services.push((None, Cost::Flat(9_900)));
    plans
}

pub fn twelve_prices() -> Vec<Plan> {
    customer((1..=12).map(|no| (Some(0), Cost::PerUnit(100 * no))).collect())
}
