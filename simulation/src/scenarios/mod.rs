//! Scenarios: named stretches of an invoice's life. Each is run once to count its gates, and then once more for every
//! gate and everything that can go wrong there.

mod list;
mod plans;
mod steps;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeZone, Utc};

pub use self::list::SCENARIOS;
use super::chance::Chance;
use super::engine::Engine;
use super::faults::Rates;
use super::gates::{self, Gates, Passed, Shot};
use super::promises;
use super::random::{Outcome, finish};
use super::story::{Plan, Story};
use super::trace::Trace;
use super::world::{Shape, World};

/// One scenario.
pub struct Scenario {
    pub name: &'static str,
    plans: fn() -> Vec<Plan>,
    settings: &'static [(&'static str, &'static str)],
    processes: usize,
    tell: fn(&mut Story<'_>) -> anyhow::Result<()>,
}

fn begins() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 10, 20, 9, 0, 0).single().unwrap_or_default()
}

/// Tells a scenario, with or without one thing that goes wrong.
pub(crate) fn run(
    engine: &Engine,
    scenario: &Scenario,
    shot: Option<Shot>,
    trace: Trace,
) -> anyhow::Result<Outcome> {
    passed(engine, scenario, shot, trace).map(|(outcome, _)| outcome)
}

/// The gates of a scenario in which nothing goes wrong.
pub(crate) fn edges(engine: &Engine, scenario: &Scenario) -> anyhow::Result<(Outcome, Vec<Passed>)> {
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
    // What the schedule does is the same in all of them.
    if scenario.name != SCENARIOS[0].name {
        story.ticks_at_least(|_| false);
    }
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
