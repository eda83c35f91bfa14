//! What an agent that attacks the gateway takes from another one beside it: the same transfer and the same requests,
//! with each attack at the gateway, and with the same datagrams sent to a socket that nobody reads. So the sender's
//! own processor time, on the same machine, is in both figures. See `benches/README.md`.

mod attack;
mod load;

use std::process::ExitCode;

use attack::{ATTACKS, Attacker};
use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, median, print},
};
use kakuremichi_tunnel::testing::hostile::Attack;
use load::Load;

const USAGE: &str =
    "abuse [--rounds N] [--milliseconds N] [--rate DATAGRAMS_A_SECOND] [--only NAME[,NAME...]]";

/// What is wanted at least, of what there is without the attack.
const GOAL: f64 = 0.9;

/// What is asked for.
struct Wish {
    /// How often each attack is measured, in turn.
    rounds: usize,
    /// Milliseconds of each measurement.
    milliseconds: u64,
    /// Datagrams a second of an attack.
    rate: u32,
    /// Parts of names; all attacks when there are none.
    only: Vec<String>,
}

/// What was measured of one attack: at the gateway, and elsewhere.
struct Row {
    name: &'static str,
    attack: Attack,
    at_gateway: Vec<load::Figures>,
    elsewhere: Vec<load::Figures>,
    sent: Vec<f64>,
}

fn main() -> ExitCode {
    match wish(std::env::args().skip(1)).and_then(|wish| run(&wish)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            print(&format!("abuse: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn wish(mut words: impl Iterator<Item = String>) -> Result<Wish, Trouble> {
    let mut wish = Wish {
        rounds: 5,
        milliseconds: 700,
        rate: 10_000,
        only: Vec::new(),
    };
    let usage = || Trouble::Usage(USAGE);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(usage)?;
        match flag.as_str() {
            "--rounds" => wish.rounds = value.parse().map_err(|_| usage())?,
            "--milliseconds" => wish.milliseconds = value.parse().map_err(|_| usage())?,
            "--rate" => wish.rate = value.parse().map_err(|_| usage())?,
            "--only" => wish.only = value.split(',').map(str::to_owned).collect(),
            _ => return Err(usage()),
        }
    }
    if wish.rounds == 0 || wish.milliseconds == 0 || wish.rate == 0 {
        return Err(usage());
    }
    Ok(wish)
}

fn run(wish: &Wish) -> Result<(), Trouble> {
    let deployment = Deployment::start("abuse", &[])?;
    let load = Load::start(&deployment)?;
    let state = deployment.enrol("hostile")?;
    let wanted =
        |name: &str| wish.only.is_empty() || wish.only.iter().any(|part| name.contains(part.as_str()));
    let chosen = ATTACKS.into_iter().filter(|(name, _)| wanted(name));
    let mut rows: Vec<Row> = chosen
        .map(|(name, attack)| Row {
            name,
            attack,
            at_gateway: Vec::new(),
            elsewhere: Vec::new(),
            sent: Vec::new(),
        })
        .collect();
    for round in 1..=wish.rounds {
        for row in &mut rows {
            print(&format!("round {round} of {}: {}\n", wish.rounds, row.name));
            let mut attacker = Attacker::connect(&state, deployment.wireguard())?;
            // Neither is always the first.
            for diverted in [round % 2 == 0, round % 2 == 1] {
                let assault = attacker.begin(row.attack, wish.rate, diverted)?;
                let figures = load.measure(wish.milliseconds)?;
                let (back, rate) = assault.end();
                attacker = back;
                if diverted {
                    row.elsewhere.push(figures);
                } else {
                    row.at_gateway.push(figures);
                    row.sent.push(rate);
                }
            }
        }
    }
    print(&table(&rows));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "\n| attack | datagrams/s | transfer, Gbit/s | ratio | request, p50, µs | ratio | |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let of = |list: &[load::Figures], figure: fn(&load::Figures) -> f64| {
            median(list.iter().map(figure).collect())
        };
        let bulk = of(&row.at_gateway, |figures| figures.gbits);
        let request = of(&row.at_gateway, |figures| figures.p50);
        let bulk_ratio = bulk / of(&row.elsewhere, |figures| figures.gbits);
        // As much as answers in the same time.
        let request_ratio = of(&row.elsewhere, |figures| figures.p50) / request;
        let met = bulk_ratio >= GOAL && request_ratio >= GOAL;
        text += &format!(
            "| {} | {:.0} | {bulk:.2} | {bulk_ratio:.2} | {request:.0} | {request_ratio:.2} | {} |\n",
            row.name,
            median(row.sent.clone()),
            if met { "met" } else { "**missed**" }
        );
    }
    text
}
