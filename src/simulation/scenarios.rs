//! Scenarios: named stretches of an invoice's life. Each is run once to count its gates, and then once more for every
//! gate and everything that can go wrong there.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, TimeZone, Utc};

use super::company::Cost;
use super::engine::Engine;
use super::faults::Rates;
use super::gates::{self, Gates, Passed, Shot};
use super::random::{Outcome, finish};
use super::story::{Plan, Story};
use super::trace::Trace;
use super::world::{Shape, World};
use super::{chance::Chance, promises};
use crate::sandbox::{Delivery, Fault};

/// One scenario.
pub struct Scenario {
    pub name: &'static str,
    plans: fn() -> Vec<Plan>,
    settings: &'static [(&'static str, &'static str)],
    processes: usize,
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
}

const NOTHING: &[(&str, &str)] = &[];
/// Gates that a worker passes until it has read the events of a job.
const READS_EVENTS: usize = 5;

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    scenario("first_usage_opens_a_draft", one, |story| {
        with_a_draft(story);
        Ok(())
    }),
    scenario("a_batch_is_sent_twice", one, |story| {
        let batch = uses(story, 0, 5);
        settle(story, 1);
        story.send(0, batch);
        settle(story, 1);
        Ok(())
    }),
    scenario("a_draft_changes", three_prices, |story| {
        with_a_draft(story);
        uses(story, 0, 12);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_is_taken_back", one, |story| {
        let at = story.world.now();
        story.consume(&[(0, 0, 9, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, -9, at)]);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_goes_up_and_comes_back", one, |story| {
        let at = story.world.now();
        with_a_draft(story);
        story.consume(&[(0, 0, 4, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, -4, at)]);
        settle(story, 1);
        story.consume(&[(0, 0, 4, at)]);
        settle(story, 1);
        Ok(())
    }),
    scenario("a_cycle_ends", one, used_and_closed),
    scenario("a_cycle_ends_with_a_due_date", sent, used_and_closed),
    scenario("nothing_was_used", metered, |story| {
        settle(story, 1);
        end_of_cycle(story);
        settle(story, 1);
        Ok(())
    }),
    scenario("usage_comes_late", one, |story| {
        let at = story.world.now();
        with_a_draft(story);
        end_of_cycle(story);
        settle(story, 2);
        story.consume(&[(0, 0, 7, at)]);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_finalizes_in_mid_cycle", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        uses(story, 0, 4);
        settle(story, 1);
        Ok(())
    }),
    scenario("somebody_deletes_the_draft", one, |story| {
        with_a_draft(story);
        story.delete_the_draft(0);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_edits_a_line", three_prices, |story| {
        with_a_draft(story);
        story.edit_a_line(0, 0, 77_700);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_removes_a_line_and_finalizes", three_prices, |story| {
        with_a_draft(story);
        story.remove_a_line(0, 0);
        story.finalize_by_hand(0);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_adds_a_line", one, |story| {
        with_a_draft(story);
        story.add_a_foreign_line(0, 4_200);
        uses(story, 0, 6);
        settle(story, 2);
        end_of_cycle(story);
        settle(story, 2);
        Ok(())
    }),
    scenario("somebody_voids_an_invoice", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        story.end_an_open_invoice(0, "void");
        settle(story, 1);
        Ok(())
    }),
    scenario("the_customer_is_deleted_and_linked_again", one, |story| {
        with_a_draft(story);
        story.delete_the_customer(0);
        settle(story, 2);
        story.link_anew(0);
        settle(story, 1);
        Ok(())
    }),
    scenario("every_webhook_is_lost", one, |story| {
        with_a_draft(story);
        lose_mail(story);
        story.finalize_by_hand(0);
        lose_mail(story);
        story.world.pass(Duration::hours(26));
        settle_without_mail(story);
        Ok(())
    }),
    scenario("a_webhook_comes_while_another_is_reacted_to", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        let mail = reacts_to_the_first(story);
        for delivery in mail {
            story.deliver(0, delivery);
        }
        while story.world.actors() > 1 {
            story.step(1);
        }
        story.run_all();
        Ok(())
    }),
    scenario("a_process_dies_while_it_reacts", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        story.end_an_open_invoice(0, "pay");
        let mail = reacts_to_the_first(story);
        story.step(0);
        story.kill(0);
        for delivery in mail {
            story.world.sandbox.delivery_done(&delivery.id, None);
        }
        settle(story, 1);
        Ok(())
    }),
    scenario("nobody_hears_that_an_invoice_is_paid", one, |story| {
        with_a_draft(story);
        story.finalize_by_hand(0);
        settle(story, 1);
        story.end_an_open_invoice(0, "pay");
        lose_mail(story);
        story.world.pass(Duration::hours(26));
        settle_without_mail(story);
        Ok(())
    }),
    scenario("the_highest_value_of_each_day_counts", peak, |story| {
        for (day, quantity) in [(0, 5), (0, 3), (1, 4)] {
            let at = story.world.now() - Duration::days(day);
            story.consume(&[(0, 1, quantity, at)]);
        }
        settle(story, 1);
        Ok(())
    }),
    scenario("nobody_hears_of_a_customer_for_two_days", one, |story| {
        unheard_for_two_days(story, "POST /v1/customers");
        Ok(())
    }),
    scenario("nobody_hears_of_a_draft_for_two_days", one, |story| {
        unheard_for_two_days(story, "POST /v1/invoices");
        Ok(())
    }),
    scenario("nobody_hears_of_a_line_for_two_days", one, |story| {
        settle(story, 1);
        unheard_for_two_days(story, "POST /v1/invoices/");
        Ok(())
    }),
    scenario("a_failure_to_make_a_customer_is_stored", one, |story| {
        fails_and_is_stored(story, "POST /v1/customers");
        Ok(())
    }),
    scenario("a_failure_to_open_a_draft_is_stored", one, |story| {
        fails_and_is_stored(story, "POST /v1/invoices");
        Ok(())
    }),
    with("lines_go_in_calls_of_two", five_prices, &[("OPENTAB_LINES_PER_CALL", "2")], used_twice_and_closed),
    scenario("there_are_more_lines_than_an_answer_shows", twelve_prices, |story| {
        with_a_draft(story);
        uses(story, 0, 6);
        settle(story, 1);
        end_of_cycle(story);
        settle(story, 2);
        Ok(())
    }),
    with("lines_are_folded", five_prices, &[("OPENTAB_LINES_PER_INVOICE", "3")], used_twice_and_closed),
    Scenario {
        name: "two_replicas_work_at_once",
        plans: one,
        settings: NOTHING,
        processes: 2,
        tell: |story| {
            with_a_draft(story);
            end_of_cycle(story);
            for process in [0, 1] {
                story.tick(process);
            }
            in_turn(story);
            story.collect_mail();
            for (no, delivery) in std::mem::take(&mut story.mail).into_iter().enumerate() {
                story.deliver(no % 2, delivery);
            }
            for process in [0, 1] {
                story.work(process);
            }
            in_turn(story);
            settle(story, 1);
            Ok(())
        },
    },
    Scenario {
        name: "a_sleeper_wakes_after_a_takeover",
        plans: one,
        settings: NOTHING,
        processes: 2,
        tell: |story| {
            with_a_draft(story);
            end_of_cycle(story);
            story.tick(0);
            story.run_all();
            // One falls asleep over the second request that it would send, and another takes over.
            story.work(0);
            for _ in 0..24 {
                story.step(0);
            }
            story.world.pass(Duration::seconds(40));
            story.work(1);
            while story.world.actors() > 1 {
                story.step(1);
            }
            settle(story, 1);
            Ok(())
        },
    },
];

const fn scenario(
    name: &'static str,
    plans: fn() -> Vec<Plan>,
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
) -> Scenario {
    with(name, plans, NOTHING, tell)
}

const fn with(
    name: &'static str,
    plans: fn() -> Vec<Plan>,
    settings: &'static [(&'static str, &'static str)],
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
) -> Scenario {
    Scenario { name, plans, settings, processes: 1, tell }
}

fn customer(services: Vec<(Option<usize>, Cost)>) -> Vec<Plan> {
    vec![Plan { zone: chrono_tz::Europe::Berlin, anchor: 1, currency: "usd", send_invoice: false, services }]
}

fn one() -> Vec<Plan> {
    customer(vec![(None, Cost::Flat(1_500)), (Some(0), Cost::PerUnit(300))])
}

fn metered() -> Vec<Plan> {
    customer(vec![(Some(0), Cost::PerUnit(300))])
}

fn peak() -> Vec<Plan> {
    customer(vec![(Some(1), Cost::PerUnit(300))])
}

fn sent() -> Vec<Plan> {
    one().into_iter().map(|plan| Plan { send_invoice: true, ..plan }).collect()
}

fn three_prices() -> Vec<Plan> {
    customer(vec![
        (None, Cost::Flat(1_500)),
        (Some(0), Cost::PerUnit(300)),
        (Some(0), Cost::Package { size: 4, at: 1_000 }),
    ])
}

fn five_prices() -> Vec<Plan> {
    let mut plans = three_prices();
    plans[0].services.push((Some(0), Cost::Graduated { first: 3, at: 500, then: 100 }));
    plans[0].services.push((None, Cost::Flat(9_900)));
    plans
}

fn twelve_prices() -> Vec<Plan> {
    customer((1..=12).map(|no| (Some(0), Cost::PerUnit(100 * no))).collect())
}

fn used_and_closed(story: &mut Story<'_>) -> anyhow::Result<()> {
    with_a_draft(story);
    end_of_cycle(story);
    settle(story, 2);
    Ok(())
}

fn used_twice_and_closed(story: &mut Story<'_>) -> anyhow::Result<()> {
    with_a_draft(story);
    uses(story, 0, 5);
    end_of_cycle(story);
    settle(story, 2);
    Ok(())
}

/// Somebody has used something, and the draft shows it: how most scenarios begin.
fn with_a_draft(story: &mut Story<'_>) {
    familiar(story, |story| {
        uses(story, 0, 5);
        settle(story, 1);
    });
}

/// What happens in another scenario too: nothing more goes wrong at its gates.
fn familiar(story: &mut Story<'_>, tell: impl FnOnce(&mut Story<'_>)) {
    gates::with(|gates| gates.familiar = true);
    tell(story);
    gates::with(|gates| gates.familiar = false);
}

/// A write takes effect and its process dies before it hears of that. When the next one looks, Stripe has forgotten the
/// key.
fn unheard_for_two_days(story: &mut Story<'_>, write: &str) {
    let sent = |story: &Story<'_>| {
        let calls = story.world.sandbox.call_counts();
        calls.iter().filter(|(call, _)| call.starts_with(write)).map(|(_, times)| times).sum::<u64>()
    };
    familiar(story, |story| {
        let before = sent(story);
        uses(story, 0, 5);
        story.send_unanswered(0);
        story.run_all();
        story.tick(0);
        story.run_all();
        story.work(0);
        while story.world.actors() > 0 && sent(story) == before {
            story.step(0);
        }
        story.kill(0);
        story.world.pass(Duration::hours(48));
        settle(story, 2);
        let known = story.world.stripe_list("/customers").len();
        if known > 1 {
            story.world.wrong(1, format!("one customer is {known} at Stripe"));
        }
    });
}

/// One webhook about an invoice arrives, and a worker has read what there is to react to. Answers the other webhooks.
fn reacts_to_the_first(story: &mut Story<'_>) -> Vec<Delivery> {
    story.collect_mail();
    let about_it = |delivery: &Delivery| delivery.event_type.starts_with("invoice.");
    let mut mail: Vec<Delivery> = std::mem::take(&mut story.mail).into_iter().filter(about_it).collect();
    if let Some(first) = mail.pop() {
        story.deliver(0, first);
    }
    story.run_all();
    story.world.pass(Duration::seconds(5));
    story.work(0);
    for _ in 0..READS_EVENTS {
        story.step(0);
    }
    mail
}

/// A write fails once and for all: whenever it is sent again, it fails the same.
fn fails_and_is_stored(story: &mut Story<'_>, write: &str) {
    let failure = Fault::Status { status: 500, code: None, stored: true, executed: false };
    familiar(story, |story| {
        story.world.sandbox.faults().next(write, failure);
        uses(story, 0, 5);
        settle(story, 3);
    });
}

fn uses(story: &mut Story<'_>, customer: usize, quantity: i64) -> usize {
    let at = story.world.now();
    story.consume(&[(customer, 0, quantity, at)])
}

/// Ordinary life for a while. Whoever died starts again.
fn settle(story: &mut Story<'_>, rounds: usize) {
    for _ in 0..rounds {
        let _ = story.raise();
        story.round(0);
        story.world.pass(Duration::seconds(61));
    }
    let _ = story.raise();
}

fn settle_without_mail(story: &mut Story<'_>) {
    let _ = story.raise();
    story.tick(0);
    story.run_all();
    let _ = story.raise();
    story.work(0);
    story.run_all();
    let _ = story.raise();
}

fn lose_mail(story: &mut Story<'_>) {
    story.collect_mail();
    for delivery in std::mem::take(&mut story.mail) {
        story.world.sandbox.delivery_done(&delivery.id, None);
    }
}

/// Everybody moves from gate to gate in turn.
fn in_turn(story: &mut Story<'_>) {
    let mut next = 0;
    while story.world.actors() > 0 {
        next = (next + 1) % story.world.actors();
        story.step(next);
    }
}

/// To just after the end of the cycle and its grace.
fn end_of_cycle(story: &mut Story<'_>) {
    let now = story.world.now();
    let customer = &story.company.customers[0];
    let end = customer.start_of(customer.next_cycle(customer.cycle_of(customer.day_of(now))));
    story.world.pass(end - now + Duration::minutes(61));
}

fn begins() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 10, 20, 9, 0, 0).single().unwrap_or_default()
}

/// Tells a scenario, with or without one thing that goes wrong.
pub fn run(
    engine: &Engine,
    scenario: &Scenario,
    shot: Option<Shot>,
    trace: Trace,
) -> anyhow::Result<Outcome> {
    passed(engine, scenario, shot, trace).map(|(outcome, _)| outcome)
}

/// The gates of a scenario in which nothing goes wrong.
pub fn edges(engine: &Engine, scenario: &Scenario) -> anyhow::Result<(Outcome, Vec<Passed>)> {
    passed(engine, scenario, None, Trace::Off)
}

fn passed(
    engine: &Engine,
    scenario: &Scenario,
    shot: Option<Shot>,
    trace: Trace,
) -> anyhow::Result<(Outcome, Vec<Passed>)> {
    let shape = Shape {
        seed: 1,
        processes: scenario.processes,
        begins: begins(),
        settings: scenario
            .settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        skews: Vec::new(),
    };
    let gates = Gates::new(Chance::new(1), Rates::none(), trace);
    let world = World::new(engine, shape, gates)?;
    let mut story = Story::begin(world, &(scenario.plans)())?;
    // Every fault at every gate is thousands of histories: they end where everything has to be right again.
    let to_the_end = shot.is_none();
    gates::with(|gates| {
        gates.passed = Some(Vec::new());
        gates.shot = shot;
    });
    (scenario.tell)(&mut story)?;
    let edges = gates::with(|gates| gates.passed.take()).flatten().unwrap_or_default();
    story.heal()?;
    promises::check(&mut story);
    if to_the_end {
        story.close_the_books()?;
        promises::check(&mut story);
    }
    Ok((finish(story, begins()), edges))
}
