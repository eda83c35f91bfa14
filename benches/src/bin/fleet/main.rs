//! What a Control costs with many nodes: the release binary, and a fleet of nodes that speak the real protocol over
//! real connections. See `benches/README.md`.

mod api;
mod control;
mod crowd;
mod figures;
mod link;
mod measure;
mod node;
mod worker;

use std::{process::ExitCode, time::Duration};

use kakuremichi_benches::machine::{Trouble, print};
use measure::Plan;

const USAGE: &str = "fleet [--gateways N] [--changes N] [--idle SECONDS] [--database URL] AGENTS...";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            print(&format!("fleet: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Trouble> {
    if let ["crowd", address, authority, first, count] = words {
        // A part of the fleet, in a process of its own.
        return worker::run(
            parsed(address)?,
            authority.as_ref(),
            parsed(first)?,
            parsed(count)?,
        );
    }
    let mut plan = Plan {
        agents: 0,
        gateways: 20,
        changes: 200,
        idle: Duration::from_secs(20),
        database: None,
    };
    let mut counts = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().ok_or(Trouble::Usage(USAGE));
        match *word {
            "--gateways" => plan.gateways = parsed(value()?)?,
            "--changes" => plan.changes = parsed(value()?)?,
            "--idle" => plan.idle = Duration::from_secs(parsed(value()?)?),
            "--database" => plan.database = Some(value()?.to_owned()),
            count => counts.push(parsed(count)?),
        }
    }
    if counts.is_empty() {
        return Err(Trouble::Usage(USAGE));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Trouble::io("cannot start threads"))?;
    for agents in counts {
        let plan = Plan {
            agents,
            ..plan.clone()
        };
        runtime.block_on(measure::measure(&plan))?;
    }
    Ok(())
}

fn parsed<T: std::str::FromStr>(word: &str) -> Result<T, Trouble> {
    word.parse().map_err(|_| Trouble::Usage(USAGE))
}
