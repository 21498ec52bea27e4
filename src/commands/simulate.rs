//! `opentab simulate`: histories in which everything goes wrong, and whether every promise held.

use std::process::ExitCode;

use clap::Args;

use crate::commands::out::say;
use crate::simulation::{Engine, Trace, history};

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The first seed; one history each from here on
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many histories
    #[arg(long, default_value_t = 1)]
    schedules: u64,
    /// Tell what happens
    #[arg(long)]
    trace: bool,
}

pub fn simulate(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let engine = Engine::start()?;
    let mut failed = 0;
    let began = std::time::Instant::now();
    for seed in args.seed..args.seed + args.schedules {
        let trace = if args.trace { Trace::Print } else { Trace::Off };
        let outcome = history(&engine, seed, trace)?;
        if !outcome.wrong.is_empty() {
            failed += 1;
            say!("seed {seed}: {:#?}", outcome.wrong);
        }
        if args.schedules == 1 {
            say!("{} gates, {} days, {:?}", outcome.gates, outcome.simulated.num_days(), outcome.injected);
        }
    }
    say!("{failed} of {} failed, {:?}", args.schedules, began.elapsed());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
