//! Runs kakuremichi and others on the same work, interleaved, and prints a table.
//!
//! Every system carries two services to a visitor on loopback: an iperf3 server for bulk and a small
//! HTTP origin for requests. Both ends of each tunnel and the load share the machine, so only ratios
//! within one run mean something. See `benches/README.md`.

mod load;
mod system;
mod table;

use std::process::ExitCode;

use kakuremichi_benches::machine::{Trouble, print};
use system::{Origin, System};
use table::Table;

/// How often each system is measured, in turn, unless told otherwise.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    match run() {
        Ok(table) => {
            print(&table.to_string());
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            print(&format!("compare: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Table, Trouble> {
    let rounds = match std::env::args().nth(1) {
        None => ROUNDS,
        Some(text) => text.parse().map_err(|_| Trouble::Usage("compare [ROUNDS]"))?,
    };
    let origin = Origin::start()?;
    let mut systems = [
        System::direct(&origin),
        System::two_hops(&origin)?,
        System::ssh(&origin)?,
        System::wireguard_lane(&origin)?,
        System::tls_lane(&origin)?,
    ];
    for system in &systems {
        load::wait_until_served(system)?;
    }
    let mut table = Table::default();
    for round in 1..=rounds {
        for system in &mut systems {
            print(&format!("round {round} of {rounds}: {}\n", system.name));
            table.add(system.name, load::measure(system)?);
        }
    }
    Ok(table)
}
