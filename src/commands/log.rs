//! Logs: to standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// Tells of every tick, which nobody needs who has not asked for it.
const CHATTERBOX: &str = "tokio_cron_scheduler";

/// Starts logging. `filter` is such as `info` or `opentab=debug`.
pub(super) fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = parse(filter).map_err(|error| anyhow::anyhow!("OPENTAB_LOG: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}

fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    let filter = EnvFilter::try_new(text)?;
    let shows_info = filter.max_level_hint().is_none_or(|level| level > LevelFilter::WARN);
    if shows_info && !text.contains(CHATTERBOX) {
        EnvFilter::try_new(format!("{text},{CHATTERBOX}=warn"))
    } else {
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_quiet_unless_somebody_asks_for_it() {
        let quieted = |text| parse(text).unwrap().to_string().contains("tokio_cron_scheduler=warn");
        assert!(quieted("info") && quieted("opentab=debug,info"));
        assert!(!quieted("info,tokio_cron_scheduler=info") && !quieted("error") && !quieted("off"));
    }
}
