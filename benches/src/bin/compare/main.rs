//! Runs kakuremichi and others on the same work, interleaved, prints a table and the goals, and draws both.
//!
//! Every system carries two services to visitors: an iperf3 server for bulk and a small HTTP origin for requests.
//! Both ends of each tunnel and the load share the machine, so only ratios within one run mean something. See
//! `benches/README.md`.

mod cipher;
mod figure;
mod goal;
mod load;
mod plot;
mod system;
mod table;

use std::{path::PathBuf, process::ExitCode};

use cipher::CIPHER;
use kakuremichi_benches::machine::{Trouble, print};
use system::{Begin, Origin, System};
use table::Table;

const USAGE: &str = "compare [--rounds N] [--seconds N] [--only NAME[,NAME...]] [--svg FILE]";

/// What is asked for.
struct Wish {
    /// How often each system is measured, in turn.
    rounds: usize,
    /// Seconds of each measurement.
    seconds: u64,
    /// Parts of names; all systems when there are none.
    only: Vec<String>,
    /// Where the drawing goes.
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match wish(std::env::args().skip(1)).and_then(|wish| run(&wish)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            print(&format!("compare: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn wish(mut words: impl Iterator<Item = String>) -> Result<Wish, Trouble> {
    let mut wish = Wish {
        rounds: 3,
        seconds: 2,
        only: Vec::new(),
        svg: None,
    };
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(Trouble::Usage(USAGE))?;
        match flag.as_str() {
            "--rounds" => wish.rounds = value.parse().map_err(|_| Trouble::Usage(USAGE))?,
            "--seconds" => wish.seconds = value.parse().map_err(|_| Trouble::Usage(USAGE))?,
            "--only" => wish.only = value.split(',').map(str::to_owned).collect(),
            "--svg" => wish.svg = Some(value.into()),
            _ => return Err(Trouble::Usage(USAGE)),
        }
    }
    if wish.rounds == 0 || wish.seconds == 0 {
        return Err(Trouble::Usage(USAGE));
    }
    Ok(wish)
}

fn run(wish: &Wish) -> Result<(), Trouble> {
    let origin = Origin::start()?;
    let wanted =
        |name: &str| wish.only.is_empty() || wish.only.iter().any(|part| name.contains(part.as_str()));
    let mut table = Table::default();
    let mut systems: Vec<System> = Vec::new();
    for (name, begin) in system::ALL.into_iter().filter(|(name, _)| wanted(name)) {
        print(&format!("starting {name}\n"));
        match started(begin, &origin) {
            Ok(system) => {
                table.add(name, load::measure_idle(&system));
                systems.push(system);
            }
            Err(trouble) => {
                print(&format!("{name} is not measured: {}\n", trouble.chain()));
                table.add(name, figure::Sample::default());
            }
        }
    }
    for round in 1..=wish.rounds {
        for system in &systems {
            print(&format!("round {round} of {}: {}\n", wish.rounds, system.name));
            table.add(system.name, load::measure(system, wish.seconds));
        }
        if wanted(CIPHER) {
            table.add(CIPHER, cipher::measure(wish.seconds)?);
        }
    }
    print(&table.to_string());
    print(&goal::judged(&table));
    if let Some(path) = &wish.svg {
        let drawing = plot::drawing(&table);
        std::fs::write(path, drawing).map_err(Trouble::io(path.display().to_string()))?;
    }
    Ok(())
}

/// A system through which bytes have gone.
fn started(begin: Begin, origin: &Origin) -> Result<System, Trouble> {
    let system = begin(origin)?;
    load::wait_until_served(&system, origin)?;
    Ok(system)
}
