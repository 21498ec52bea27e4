//! `opentab demo`: the main job on a made-up company, with the sandbox for Stripe and time running fast.

mod company;
mod compare;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;

use crate::commands::out::say;
use company::Company;
use world::World;

/// How far time goes in one step.
const STEP: TimeDelta = TimeDelta::hours(6);

/// Watch the main job on a made-up company, with the sandbox standing in for Stripe
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run one billing cycle as fast as it goes, compare every invoice with its statement, and exit: 0 only if they agree
    #[arg(long)]
    once: bool,
    /// Where to serve the API and the billing pages; another port is taken where this one is in use
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
    /// How long a day takes, in milliseconds
    #[arg(long, default_value_t = 700)]
    day_takes_ms: u64,
}

/// Runs until one cycle is over (`--once`), or until Ctrl-C.
pub async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let level = if args.once { "error" } else { "error,opentab=error" };
    super::log::start(level, false)?;
    let world = World::begin(args.listen, start()).await?;
    let company = Company::found(&world).await?;
    introduce(&world, &company);
    if args.once {
        let first = world.app.clock.now();
        while !company.everybody_billed().await? {
            anyhow::ensure!(world.app.clock.now() - first < TimeDelta::days(40), "the cycle did not close");
            step(&world, &company, Duration::ZERO).await?;
        }
        return compare::compare(&world, &company).await;
    }
    let pause = Duration::from_millis(args.day_takes_ms) / 4;
    tokio::select! {
        gone_wrong = run(&world, &company, pause) => gone_wrong?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    say!("\nStopped. The data stays in {}", world.folder.display());
    Ok(ExitCode::SUCCESS)
}

/// The story begins on the 1st of November 2026, which it is by then in every customer's time zone.
fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_793_534_400, 0).unwrap_or_default()
}

fn introduce(world: &World, company: &Company) {
    say!(
        "\nNimbus Maps sells maps to {} companies, by usage. Stripe is the sandbox, and time runs fast.\n",
        company.customers.len()
    );
    say!("  API and docs    {}/docs", world.base);
    say!("  The console     {}/console  (sign in with {})", world.base, world.key);
    say!("  The sandbox     {}/  (key sk_test_sandbox)", world.stripe_base);
    say!("  Data            {}\n", world.folder.display());
    say!("What each customer sees, live:");
    for customer in &company.customers {
        say!("  {:<18} {}", customer.name, customer.link);
    }
    say!("");
}

async fn run(world: &World, company: &Company, pause: Duration) -> anyhow::Result<()> {
    loop {
        step(world, company, pause).await?;
    }
}

/// A quarter of a day: usage comes in, the schedule ticks, jobs run, webhooks are carried.
async fn step(world: &World, company: &Company, pause: Duration) -> anyhow::Result<()> {
    let before = world.app.clock.now();
    let now = before + STEP;
    world.app.clock.move_to(now);
    company.use_maps(world, before, now).await?;
    let sealed_before = company.finalized().await?;
    world.work().await?;
    let new_month = company.tell(world, &sealed_before).await?;
    if new_month || now.date_naive() != before.date_naive() {
        company.tell_day(world).await?;
    }
    tokio::time::sleep(pause).await;
    Ok(())
}
