//! `simulate`: histories in which everything goes wrong, and whether every promise held.
#![allow(
    clippy::disallowed_methods,
    reason = "how long all histories take is the operator's time, not theirs"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use opentab::internals::{Mutant, activate};
use opentab_simulation::{
    Case, Engine, Failure, Hunt, SCENARIOS, Tally, Trace, attempt, exhaustive, hunt, run_all,
};

/// Failures that are told in full; of the rest only the line that repeats them.
const MOST_TOLD: usize = 10;

/// Run histories in which everything goes wrong, and check that every promise holds.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// The first seed of histories by chance; with `--exhaustive`, with which of its cases to begin
    #[arg(long)]
    seed: Option<u64>,
    /// How many histories by chance, one for each seed from the first on
    #[arg(long)]
    schedules: Option<u64>,
    /// Every scenario, with everything that can go wrong at each of its gates
    #[arg(long)]
    exhaustive: bool,
    /// A file of cases, one a line, that are run before all others
    #[arg(long, value_name = "FILE")]
    kept: Option<PathBuf>,
    /// One case as a failure names it, such as `a_cycle_ends 41 dropped_after`
    #[arg(long)]
    case: Option<Case>,
    /// Activate every mutant in turn, and look for each with the scenarios and `--schedules` random histories
    #[arg(long)]
    mutants: bool,
    /// Only this mutant; with `--trace`, the case with this mutant in it
    #[arg(long, value_parser = named)]
    mutant: Option<Mutant>,
    /// Begin nothing more after so many minutes, and say how much is left
    #[arg(long)]
    minutes: Option<u64>,
    /// Run each twice and compare what happened, step by step
    #[arg(long)]
    doublecheck: bool,
    /// Tell everything that happens in one case
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    simulate(&Args::parse()).unwrap_or_else(|error| {
        eprintln!("simulate: {error:#}");
        ExitCode::from(2)
    })
}

/// Runs what was asked for, or one history by chance. Exit code 1: a promise was broken, or fewer histories were run than
/// were asked for by number.
fn simulate(args: &Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    if args.mutants {
        return hunt_all(args, || is_time(args, began));
    }
    let lots = lots(args)?;
    if args.trace {
        activate(args.mutant);
        return trace(&lots);
    }
    let mut all = Tally::default();
    let mut missing = 0;
    for (name, cases) in &lots {
        let tally = run_lot(name, cases, args.doublecheck, || is_time(args, began))?;
        // Of the scenarios' cases so many are run as there is time for: another run begins with others.
        if *name != SCENARIO_CASES {
            missing += cases.len() as u64 - tally.cases;
        }
        all.absorb(tally);
    }
    report(&all, began);
    if missing > 0 {
        println!("FAILED: {missing} histories that were asked for have not been run: give it more --minutes");
    }
    Ok(if all.failures.is_empty() && missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_time(args: &Args, began: Instant) -> bool {
    args.minutes.is_none_or(|minutes| began.elapsed().as_secs() < 60 * minutes)
}

type Lot = (&'static str, Vec<Case>);

const SCENARIO_CASES: &str = "scenarios";

fn lots(args: &Args) -> anyhow::Result<Vec<Lot>> {
    let mut lots: Vec<Lot> = Vec::new();
    if let Some(file) = &args.kept {
        lots.push(("kept cases", kept(file)?));
    }
    lots.extend(args.case.clone().map(|case| ("one case", vec![case])));
    if args.exhaustive {
        let first = args.seed.unwrap_or(0);
        println!("again in this order: cargo run -p opentab-simulation -- --exhaustive --seed {first}");
        lots.push((SCENARIO_CASES, spread(exhaustive(&Engine::start()?, |_| true)?, first)));
    }
    if args.schedules.is_some() || (args.seed.is_some() && !args.exhaustive) || lots.is_empty() {
        let first = args.seed.unwrap_or(1);
        lots.push(("by chance", (first..first + args.schedules.unwrap_or(1)).map(Case::Random).collect()));
    }
    Ok(lots)
}

/// In an order in which neighbours are far apart, so that whatever there is time for is something of everything. Where
/// it begins is the caller's choice, so that one run after another comes to all of it.
fn spread<T: Clone>(cases: Vec<T>, first: u64) -> Vec<T> {
    // No list is a multiple of so large a prime: every case comes, once.
    const STRIDE: usize = 1_000_003;
    let first = (first % cases.len().max(1) as u64) as usize;
    (first..first + cases.len()).map(|no| cases[no * STRIDE % cases.len()].clone()).collect()
}

fn kept(file: &PathBuf) -> anyhow::Result<Vec<Case>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.parse().map_err(|why: String| anyhow::anyhow!("{}: {why}", file.display())))
        .collect()
}

fn trace(lots: &[Lot]) -> anyhow::Result<ExitCode> {
    let [(_, cases)] = lots else { anyhow::bail!("one case can be traced, not several lots") };
    let [case] = cases.as_slice() else { anyhow::bail!("one case can be traced, not {}", cases.len()) };
    let outcome = attempt(&mut Engine::start()?, case, Trace::Print);
    outcome.wrong.iter().for_each(|wrong| println!("BROKEN {wrong}"));
    Ok(if outcome.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_lot(
    name: &str,
    cases: &[Case],
    doublecheck: bool,
    is_time: impl Fn() -> bool + Sync,
) -> anyhow::Result<Tally> {
    let style = ProgressStyle::with_template("{prefix:12} {bar:40} {pos}/{len} {per_sec} {eta}")?;
    // Where it is no terminal this stays silent.
    let bar = ProgressBar::new(cases.len() as u64).with_style(style).with_prefix(name.to_owned());
    let began = Instant::now();
    println!("{name}: {} histories", cases.len());
    let told = AtomicUsize::new(0);
    let tally = run_all(cases, doublecheck, is_time, |failure| {
        bar.inc(1);
        let Some(failure) = failure else { return };
        let in_full = told.fetch_add(1, Ordering::Relaxed) < MOST_TOLD;
        bar.suspend(|| tell(&failure, in_full));
    })?;
    bar.finish_and_clear();
    let (failed, seconds) = (tally.failures.len(), began.elapsed().as_secs());
    println!("{name}: {failed} broke a promise, {seconds} s");
    if tally.cases < cases.len() as u64 {
        println!("{name}: the time was over after {} of {} cases", tally.cases, cases.len());
    }
    Ok(tally)
}

fn report(tally: &Tally, began: Instant) {
    println!("{:>9} histories", tally.cases);
    println!("{:>9} scenarios known", SCENARIOS.len());
    println!("{:>9} simulated years", tally.simulated.num_days() / 365);
    println!("{:>9} gates passed", tally.gates);
    println!("{:>9} kinds of fault and of human hand:", tally.injected.len());
    for (name, times) in &tally.injected {
        println!("{times:>9} {name}");
    }
    println!("{:>9} broke a promise", tally.failures.len());
    println!("{:>9} seconds", began.elapsed().as_secs());
}

/// What broke, and the line that tells it again.
fn tell(failure: &Failure, in_full: bool) {
    println!("BROKEN {}", failure.case);
    failure.wrong.iter().take(if in_full { 6 } else { 1 }).for_each(|wrong| println!("    {wrong}"));
    if in_full {
        println!("    Again: cargo run -p opentab-simulation -- --case '{}' --trace", failure.case);
    }
}

/// The scenarios whose every gate is tried, if nothing else has found a mutant, and what goes wrong there: one way of
/// each to be lost, before and after it took effect.
const FAULTY: &[&str] = &["an_invoice_is_charged", "first_usage_opens_a_draft"];
const TELLING: &[&str] =
    &["crash", "dropped_after", "error_500_executed_stored", "disk_full", "connection_lost_in_commit"];

/// Looks for every mutant. Exit code 1: one was missed.
fn hunt_all(args: &Args, is_time: impl Fn() -> bool + Sync) -> anyhow::Result<ExitCode> {
    let (first, schedules) = (args.seed.unwrap_or(1), args.schedules.unwrap_or(500));
    let scenarios = SCENARIOS.iter().map(|scenario| Case::Scenario { name: scenario.name, at: None });
    let mut cases: Vec<Case> = scenarios.chain((first..first + schedules).map(Case::Random)).collect();
    // What takes one certain fault at one certain gate.
    let faulty = exhaustive(&Engine::start()?, |name| FAULTY.contains(&name))?;
    cases.extend(faulty.into_iter().filter(|case| case.is_about(TELLING)));
    let mutants = args.mutant.map_or(Mutant::ALL.to_vec(), |only| vec![only]);
    let hunts = hunt(&mutants, &cases, is_time, |hunt| println!("{}", line(hunt)))?;
    let missed = hunts.iter().filter(|hunt| hunt.found.is_none()).count();
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    println!("{found} of {} mutants found, {missed} missed", hunts.len());
    let left = mutants.len() - hunts.len();
    if left > 0 {
        println!("the time was over, {left} mutants are left");
    }
    Ok(if missed == 0 && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The mutant of this name.
fn named(name: &str) -> Result<Mutant, String> {
    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
    found.ok_or_else(|| format!("there is no mutant `{name}`"))
}

fn line(hunt: &Hunt) -> String {
    let name = hunt.mutant.name();
    match &hunt.found {
        Some((failure, after)) => {
            let wrong = failure.wrong.first().map_or("", String::as_str);
            format!("found  {name:28} after {after:>4}: {} - {wrong}", failure.case)
        }
        None => format!("MISSED {name:28} {}", hunt.mutant.mistake()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_comes_once_wherever_a_run_begins() {
        for first in [0, 1, 7, u64::MAX] {
            let mut all = spread((0..10).collect::<Vec<u8>>(), first);
            all.sort_unstable();
            assert!(all.into_iter().eq(0..10), "from {first}");
        }
        assert_ne!(spread(vec![1, 2], 0), spread(vec![1, 2], 1));
        assert!(spread(Vec::<u8>::new(), 3).is_empty());
    }
}
