//! Logs: on stderr only, for people when stderr is a terminal, as JSON lines otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;

use crate::failure::Failure;

/// What is logged unless `--log` says otherwise. boringtun calls each offline peer an error, again and again; the
/// state of lanes is logged by the engine itself.
pub const DEFAULT_FILTER: &str = "info,boringtun=off";

/// Starts logging. `filter` has the form of `tracing`'s `EnvFilter`: `info`, `kakuremichi_tunnel=debug,warn`.
///
/// # Errors
///
/// A filter that makes no sense, or a second call in one process.
pub fn start(filter: &str) -> Result<(), Failure> {
    let filter = parse(filter)?;
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let outcome = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    };
    outcome.map_err(|_| Failure::refused("logging was started twice"))
}

fn parse(filter: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Failure::usage(format!("--log `{filter}` is not a log filter: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    #[test]
    fn a_filter_is_a_level_or_a_list() {
        parse(DEFAULT_FILTER).unwrap();
        parse("kakuremichi_tunnel=debug,warn").unwrap();
        let failure = parse("kakuremichi=loud").unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Usage);
        assert!(failure.to_string().contains("kakuremichi=loud"), "{failure}");
    }
}
