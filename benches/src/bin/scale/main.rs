//! What a gateway costs with many agents, and with many flows: the release binaries, a crowd of simulated
//! agents that shake hands for real, and visitors. See `benches/README.md`.

mod agents;
mod crowd;
mod flows;
mod plan;
mod simulated;
mod visits;
mod worker;

use std::{fmt::Display, process::ExitCode, time::Duration};

use kakuremichi_benches::machine::{Trouble, print};
use simulated::Gateway;

const USAGE: &str = "scale agents [--idle SECONDS] N... | scale flows N...";
/// How long idle agents are watched unless told otherwise.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            print(&format!("scale: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Trouble> {
    match words {
        ["agents", "--idle", seconds, counts @ ..] if !counts.is_empty() => {
            let idle = Duration::from_secs(parsed(seconds)?);
            each(counts, |count| agents::measure(count, idle))
        }
        ["agents", counts @ ..] if !counts.is_empty() => each(counts, |count| agents::measure(count, IDLE)),
        ["flows", counts @ ..] if !counts.is_empty() => each(counts, flows::measure),
        // The processes that those start.
        ["crowd", key, overlay, socket, first, count] => {
            let gateway = Gateway {
                key: parsed(key)?,
                overlay: parsed(overlay)?,
                socket: parsed(socket)?,
            };
            worker::run(&gateway, parsed(first)?, parsed(count)?).map_err(Trouble::io("the crowd"))
        }
        ["origin"] => visits::be_origin().map_err(Trouble::io("the origin")),
        _ => Err(Trouble::Usage(USAGE)),
    }
}

fn each<T: std::str::FromStr>(
    counts: &[&str],
    measure: impl Fn(T) -> Result<(), Trouble>,
) -> Result<(), Trouble>
where
    T::Err: Display,
{
    counts.iter().try_for_each(|count| measure(parsed(count)?))
}

fn parsed<T: std::str::FromStr>(word: &str) -> Result<T, Trouble> {
    word.parse().map_err(|_| Trouble::Usage(USAGE))
}
