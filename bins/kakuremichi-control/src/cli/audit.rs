//! `audit verify` and `audit export`.

use std::pin::pin;

use clap::{Arg, ArgMatches, Command};
use futures_util::TryStreamExt as _;
use kakuremichi_bins_common::{Failure, run};
use kakuremichi_control::service::{AuditFormat, LinkText};
use kakuremichi_core::{audit::AuditQuery, id::OrganizationId};

use super::{offline, parsed};

/// The commands, with the arguments that say where Control is.
pub(super) fn commands(place: &[Arg]) -> [Command; 2] {
    let verify = Command::new("verify")
        .about(
            "Check that the audit is what was sealed, and print its head: keep that elsewhere, and give it to a \
             later check",
        )
        .args(place)
        .arg(
            Arg::new("head")
                .long("head")
                .value_name("HEAD")
                .help("What an earlier check printed: shows entries that were cut off, or a chain made anew"),
        );
    let export = Command::new("export")
        .about("Print the audit of the whole Control, oldest first; Control may be running")
        .args(place)
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("jsonl|csv")
                .value_parser(["jsonl", "csv"])
                .default_value("jsonl")
                .help("A JSON object in each line, or a table"),
        )
        .arg(
            Arg::new("organization")
                .long("organization")
                .value_name("ID")
                .help("Only what was done in this organization"),
        )
        .arg(
            Arg::new("action")
                .long("action")
                .value_name("ACTION")
                .help("Only this action, such as service.create, or all that begin so, such as service."),
        );
    [verify, export]
}

/// Runs `audit verify`.
pub(super) async fn verify(matches: &ArgMatches) -> Result<(), Failure> {
    let pin = parsed::<LinkText>(matches, "head")?.first().map(|pin| pin.0);
    let control = offline(matches).await?;
    let verified = control.use_cases().verify_audit(pin).await;
    match verified.map_err(|error| Failure::because("audit verify", &error))? {
        Ok(verified) => {
            tracing::info!(
                sealed = verified.sealed,
                unsealed = verified.unsealed,
                pruned_up_to = verified.start.sequence.0,
                "the audit is intact"
            );
            run::print(&format!("{}\n", LinkText(verified.head)))
        }
        Err(fault) => Err(Failure::refused(format!(
            "the audit is not what was sealed: {fault}"
        ))),
    }
}

/// Runs `audit export`.
pub(super) async fn export(matches: &ArgMatches) -> Result<(), Failure> {
    let format = match matches.get_one::<String>("format").map(String::as_str) {
        Some("csv") => AuditFormat::Csv,
        _ => AuditFormat::JsonLines,
    };
    let query = AuditQuery {
        organization: parsed::<OrganizationId>(matches, "organization")?
            .first()
            .copied(),
        action: matches.get_one::<String>("action").cloned(),
        ..AuditQuery::default()
    };
    let control = offline(matches).await?;
    let mut text = pin!(control.use_cases().export_audit(query, format));
    let failed = |error| Failure::because("audit export", &error);
    while let Some(text) = text.try_next().await.map_err(failed)? {
        run::print(&text)?;
    }
    Ok(())
}
