//! Case: one history that can be told again, and the line that tells it.

use std::fmt;
use std::str::FromStr;

use super::engine::Engine;
use super::faults;
use super::gates::{Decision, Passed, Shot};
use super::random::{self, Outcome};
use super::scenarios::{self, SCENARIOS};
use super::trace::Trace;
use crate::gates::Edge;

/// Which history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Case {
    /// Everything by chance, from this seed.
    Random(u64),
    /// A scenario, and what goes wrong at one of its gates.
    Scenario {
        /// The scenario's name.
        name: &'static str,
        /// The gate, counted from 0, and the name of what goes wrong there.
        at: Option<(u64, &'static str)>,
    },
}

/// As it is written into the list of kept cases and typed at the command line.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Random(seed) => write!(f, "random {seed}"),
            Case::Scenario { name, at: None } => write!(f, "{name}"),
            Case::Scenario { name, at: Some((gate, what)) } => write!(f, "{name} {gate} {what}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("`{word}` is no number"));
        match words[..] {
            ["random", seed] => Ok(Case::Random(number(seed)?)),
            [name] => Ok(Case::Scenario { name: known(name)?, at: None }),
            [name, gate, what] => {
                Ok(Case::Scenario { name: known(name)?, at: Some((number(gate)?, fault_named(what)?)) })
            }
            _ => Err(format!("`{text}` is neither `random SEED` nor `SCENARIO [GATE FAULT]`")),
        }
    }
}

fn known(name: &str) -> Result<&'static str, String> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.map(|scenario| scenario.name).ok_or_else(|| format!("there is no scenario `{name}`"))
}

fn fault_named(name: &str) -> Result<&'static str, String> {
    let all = faults::all().into_iter().map(|injection| injection.name());
    let found = all.chain([CRASH]).find(|known| *known == name);
    found.ok_or_else(|| format!("there is no fault `{name}`"))
}

const CRASH: &str = "crash";

impl Case {
    /// Whether one of these things goes wrong in it, and nothing else.
    pub fn is_about(&self, faults: &[&str]) -> bool {
        matches!(self, Case::Scenario { at: Some((_, what)), .. } if faults.contains(what))
    }

    /// Runs the history to its checks.
    pub fn run(&self, engine: &Engine, trace: Trace) -> anyhow::Result<Outcome> {
        match self {
            Case::Random(seed) => random::history(engine, *seed, trace),
            Case::Scenario { name, at } => {
                let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == *name) else {
                    anyhow::bail!("there is no scenario {name}")
                };
                let shot = at.map(|(at, what)| Shot { at, what: decision(what) });
                scenarios::run(engine, scenario, shot, trace)
            }
        }
    }
}

fn decision(name: &str) -> Decision {
    let injection = faults::all().into_iter().find(|injection| injection.name() == name);
    injection.map_or(Decision::Crash, Decision::Inject)
}

/// These scenarios, each by itself and with everything that can go wrong at each of its gates. What is the same in all of
/// them is tried in the first alone: how they begin, what the schedule does, what is only read, and each way in which a
/// transaction can fail to be.
pub fn exhaustive(engine: &Engine, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (no, scenario) in SCENARIOS.iter().enumerate().filter(|(_, scenario)| wanted(scenario.name)) {
        let (_, passed) = scenarios::edges(engine, scenario)?;
        cases.push(Case::Scenario { name: scenario.name, at: None });
        for (gate, passed) in passed.into_iter().enumerate() {
            let at = what_can_happen(no == 0, passed).into_iter().map(|what| Some((gate as u64, what)));
            cases.extend(at.map(|at| Case::Scenario { name: scenario.name, at }));
        }
    }
    Ok(cases)
}

fn what_can_happen(
    first: bool,
    Passed { edge, operation, by_schedule, familiar }: Passed,
) -> Vec<&'static str> {
    let faults = faults::at(edge, &operation).into_iter().map(|injection| injection.name());
    match (first, edge) {
        // To die before a read is to die after whatever was done before it: that gate is tried already.
        (true, Edge::Read) => faults.collect(),
        (true, _) => faults.chain([CRASH]).collect(),
        // Not to begin is not to commit.
        (false, Edge::Read | Edge::Begin) => Vec::new(),
        (false, _) if by_schedule || familiar => Vec::new(),
        (false, Edge::Commit) => faults.take(1).chain([CRASH]).collect(),
        (false, _) => faults.chain([CRASH]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_names_a_case_tells_it_again() {
        for text in ["random 17", "a_cycle_ends", "a_cycle_ends 41 dropped_after", "a_cycle_ends 3 crash"] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
        for wrong in ["", "random x", "a_cycle", "a_cycle_ends 41", "a_cycle_ends 41 nonsense"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }
}
