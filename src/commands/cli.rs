//! What can be typed, and which file does it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{
    amounts, customers, demo, doctor, dunning, emails, incidents, invoices, jobs, keys, link, log, open,
    prices, reconcile, report, sandbox, serve, sync, usage, webhooks,
};
use crate::commands::out::say;
use crate::config::{Config, SETTINGS, duration, toml_key};
use crate::http::auth::KEY_PREFIX;
use crate::store::api_keys::Scope;

/// Usage-based billing on Stripe: one draft invoice per customer, always in step with what they owe.
#[derive(Debug, Parser)]
#[command(name = "opentab", after_long_help = settings_help(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = settings_help())]
    Serve,
    /// Watch the main job on a made-up company, with the sandbox standing in for Stripe
    Demo(demo::DemoArgs),
    /// Serve the stand-in for Stripe on a port of its own
    Sandbox(sandbox::SandboxArgs),
    /// Send usage events from a file
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Bring a customer list in from a CSV file, and look at those that were brought
    #[command(subcommand)]
    Customers(customers::CustomersCommand),
    /// Bring draft invoices in step with what is owed, now
    #[command(after_help = sync::EXIT_CODES)]
    Sync(sync::SyncArgs),
    /// Compare ledger and drafts with what Stripe holds, to the cent
    #[command(after_help = reconcile::EXIT_CODES)]
    Reconcile(reconcile::ReconcileArgs),
    /// Make a link to a customer's billing page
    Link(link::LinkArgs),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Look at Stripe's events, and react to them again
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// Look at jobs that wait for a human, and run them again
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Look at what a human should see to, and close it
    #[command(subcommand)]
    Incidents(incidents::IncidentsCommand),
    /// See which invoices are paid, and charge, retry, void or bill again by hand
    #[command(subcommand)]
    Invoices(invoices::InvoicesCommand),
    /// Say what things cost
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Look at amounts that your own API gives, and ask again
    #[command(subcommand)]
    Amounts(amounts::AmountsCommand),
    /// See what a month's invoices come to, and which amounts, e-mails and payments are awaited
    #[command(after_help = report::EXIT_CODES)]
    Report(report::ReportArgs),
    /// Look at what follows a charge that failed
    #[command(subcommand)]
    Dunning(dunning::DunningCommand),
    /// Look at e-mails, send again what did not arrive, and read before it goes out
    #[command(subcommand)]
    Emails(emails::EmailsCommand),
    /// Check the settings, the database and Stripe
    Doctor(doctor::DoctorArgs),
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; it is shown this once
    Create(CreateKey),
    /// List keys, also revoked ones
    List {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key for ever
    Revoke {
        /// ot_key_…
        id: String,
    },
}

#[derive(Debug, Args)]
struct CreateKey {
    /// What it is for, such as the name of the service that will use it
    #[arg(long, default_value = "")]
    name: String,
    /// What it may do; may be repeated. usage:write, billing:read, billing:write, sync, emails:bounces, admin
    #[arg(long = "scope", default_value = "admin")]
    scopes: Vec<Scope>,
    /// How long it is valid, such as 90d; for ever where it is not given
    #[arg(long, value_parser = duration)]
    expires_in: Option<std::time::Duration>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Every setting, as the configuration knows it.
fn settings_help() -> String {
    let mut text = String::from("Settings (environment, or opentab.toml with the name in brackets):\n");
    for setting in SETTINGS {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default)
        };
        text +=
            &format!("  {} ({})\n      {}{default}\n", setting.name, toml_key(setting.name), setting.help);
    }
    text
}

/// The stack of a thread, in bytes: what is deep needs more than usual where nothing is optimised. Only what is used of it
/// takes memory.
const STACK: usize = 8 << 20;

/// What `--version` prints: the package's version, the commit that it was built from, and what is compiled in that no user
/// should run.
fn version(commit: &str) -> String {
    let development = [("failpoints", cfg!(feature = "failpoints")), ("mutants", cfg!(feature = "mutants"))];
    let compiled_in = development.iter().filter(|(_, is_in)| *is_in).map(|(name, _)| format!(", {name}"));
    format!("{} (commit {commit}{})", env!("CARGO_PKG_VERSION"), compiled_in.collect::<String>())
}

/// Parses the arguments of this process and does what they ask for. `commit` is the commit that the binary was built from.
/// An error is one line on standard error that says what to do.
pub fn run(commit: &str) -> ExitCode {
    // clap takes a text that lives as long as the process; this one is made once.
    let matches = Cli::command().version(&*version(commit).leak()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    runtime.block_on(perform(cli.command)).unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("opentab: {error:#}");
    ExitCode::from(2)
}

async fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // The demo and the sandbox bring their own settings.
        Command::Demo(args) => return demo::demo(args).await,
        Command::Sandbox(args) => return sandbox::sandbox(args).await,
        _ => {}
    }
    let config = Config::load()?;
    log::start(&config.log, config.log_json)?;
    match command {
        Command::Serve => serve::serve(config).await,
        Command::Link(args) => link::link(config, args).await,
        Command::Usage(command) => usage::usage(config, command).await,
        Command::Customers(command) => customers::customers(config, command).await,
        Command::Prices(command) => prices::prices(config, command).await,
        Command::Amounts(command) => amounts::amounts(config, command).await,
        Command::Report(args) => report::report(config, args).await,
        Command::Sync(args) => sync::sync(config, args).await,
        Command::Reconcile(args) => reconcile::reconcile(config, args).await,
        Command::Keys(command) => manage_keys(config, command).await,
        Command::Webhooks(command) => webhooks::webhooks(config, command).await,
        Command::Jobs(command) => jobs::jobs(config, command).await,
        Command::Incidents(command) => incidents::incidents(config, command).await,
        Command::Invoices(command) => invoices::invoices(config, command).await,
        Command::Dunning(command) => Ok(dunning::dunning(&config, &command)),
        Command::Emails(command) => emails::emails(config, command).await,
        Command::Doctor(args) => doctor::doctor(config, args).await,
        Command::Demo(_) | Command::Sandbox(_) => Ok(ExitCode::SUCCESS),
    }
}

async fn manage_keys(config: Config, command: KeysCommand) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    let now = app.clock.now();
    match command {
        KeysCommand::Create(new) => {
            let scopes: BTreeSet<Scope> = new.scopes.into_iter().collect();
            let expires_at = new.expires_in.map(|span| now + span);
            let livemode = app.config.livemode();
            let key =
                keys::create(&app.store, &app.ids, now, &new.name, scopes, livemode, expires_at).await?;
            say!("{}", keys::show_new(&key, new.json));
        }
        KeysCommand::List { json } => say!("{}", keys::show_list(&keys::list(&app.store).await?, json)),
        // What is typed here may end up in a log: a secret is not said again.
        KeysCommand::Revoke { id } if id.starts_with(KEY_PREFIX) => {
            anyhow::bail!(
                "name the key by its id, ot_key_…, not by its secret; `opentab keys list` shows them"
            );
        }
        KeysCommand::Revoke { id } => {
            if !keys::revoke(&app.store, &app.ids, now, &id).await? {
                anyhow::bail!("there is no valid key {id}; `opentab keys list` shows them");
            }
            say!("Revoked {id}. Running servers refuse it within five seconds.");
        }
    }
    Ok(ExitCode::SUCCESS)
}
