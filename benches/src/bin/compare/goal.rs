//! What is to be reached, as ratios to others in the same run.

use std::fmt::Write as _;

use super::{
    cipher::CIPHER,
    figure::Figure,
    system::{
        DUMBPIPE, NEWT, NEWT_NATIVE, RATHOLE_NOISE, RATHOLE_PLAIN, RATHOLE_TLS, SSH, TLS, TSNET, TWO_HOPS,
        WIREGUARD,
    },
    table::Table,
};

/// A row of ours, and the most or the least that it may be of another's.
struct Goal {
    ours: &'static str,
    figure: Figure,
    factor: f64,
    other: &'static str,
}

const fn goal(ours: &'static str, figure: Figure, factor: f64, other: &'static str) -> Goal {
    Goal {
        ours,
        figure,
        factor,
        other,
    }
}

/// The bounds of one figure that has no other to be compared with.
const ABSOLUTE: [(&str, Figure, f64); 4] = [
    (WIREGUARD, Figure::P99Of32, 5000.0),
    (WIREGUARD, Figure::LoadedP50, 2000.0),
    (WIREGUARD, Figure::IdleFlow, 10.0),
    (TLS, Figure::IdleFlow, 10.0),
];

const GOALS: [Goal; 52] = [
    goal(WIREGUARD, Figure::Down1, 6.0, NEWT),
    goal(WIREGUARD, Figure::Up1, 1.5, NEWT_NATIVE),
    goal(WIREGUARD, Figure::Down1, 1.5, NEWT_NATIVE),
    goal(WIREGUARD, Figure::Up1, 2.5, TSNET),
    goal(WIREGUARD, Figure::Down1, 2.5, TSNET),
    goal(WIREGUARD, Figure::Up1, 1.3, DUMBPIPE),
    goal(WIREGUARD, Figure::Down1, 1.3, DUMBPIPE),
    goal(WIREGUARD, Figure::Up1, 0.95, RATHOLE_NOISE),
    goal(WIREGUARD, Figure::Down1, 0.95, RATHOLE_NOISE),
    goal(TLS, Figure::Up1, 1.1, SSH),
    goal(TLS, Figure::Down1, 1.1, SSH),
    goal(TLS, Figure::Up1, 1.1, RATHOLE_TLS),
    goal(TLS, Figure::Down1, 1.1, RATHOLE_TLS),
    goal(TLS, Figure::Up1, 1.1, RATHOLE_NOISE),
    goal(TLS, Figure::Down1, 1.1, RATHOLE_NOISE),
    goal(TLS, Figure::Up1, 1.1, DUMBPIPE),
    goal(TLS, Figure::Up1, 0.65, TWO_HOPS),
    goal(TLS, Figure::Down1, 0.65, TWO_HOPS),
    goal(WIREGUARD, Figure::CpuPerGb, 1.9, CIPHER),
    goal(WIREGUARD, Figure::CpuPerGb, 0.1, NEWT),
    goal(WIREGUARD, Figure::CpuPerGb, 1.0 / 3.0, TSNET),
    goal(WIREGUARD, Figure::CpuPerGb, 1.0 / 1.5, DUMBPIPE),
    goal(WIREGUARD, Figure::CpuPerGb, 1.0 / 1.3, RATHOLE_NOISE),
    goal(TLS, Figure::CpuPerGb, 1.8, TWO_HOPS),
    goal(WIREGUARD, Figure::Rate32, 1.2, RATHOLE_PLAIN),
    goal(WIREGUARD, Figure::Rate32, 3.0, NEWT),
    goal(WIREGUARD, Figure::Rate32, 3.0, TSNET),
    goal(WIREGUARD, Figure::Rate32, 1.7, DUMBPIPE),
    goal(WIREGUARD, Figure::Rate32, 0.9, TWO_HOPS),
    goal(WIREGUARD, Figure::Rate256, 1.2, RATHOLE_PLAIN),
    goal(WIREGUARD, Figure::Rate256, 3.0, NEWT),
    goal(WIREGUARD, Figure::Rate256, 3.0, TSNET),
    goal(WIREGUARD, Figure::Rate256, 1.7, DUMBPIPE),
    goal(WIREGUARD, Figure::Rate256, 0.9, TWO_HOPS),
    goal(TLS, Figure::Rate32, 1.0, RATHOLE_PLAIN),
    goal(TLS, Figure::Rate256, 1.0, RATHOLE_PLAIN),
    goal(WIREGUARD, Figure::OneP50, 1.35, TWO_HOPS),
    goal(TLS, Figure::OneP50, 1.35, TWO_HOPS),
    goal(WIREGUARD, Figure::OneP99, 1.0, SSH),
    goal(WIREGUARD, Figure::OneP99, 1.0, NEWT),
    goal(WIREGUARD, Figure::OneP99, 1.0, TSNET),
    goal(WIREGUARD, Figure::OneP99, 1.0, RATHOLE_NOISE),
    goal(WIREGUARD, Figure::OneP99, 1.0, RATHOLE_TLS),
    goal(WIREGUARD, Figure::OneP99, 1.0, DUMBPIPE),
    goal(TLS, Figure::OneP99, 1.0, SSH),
    goal(TLS, Figure::OneP99, 1.0, NEWT),
    goal(TLS, Figure::OneP99, 1.0, TSNET),
    goal(TLS, Figure::OneP99, 1.0, RATHOLE_NOISE),
    goal(TLS, Figure::OneP99, 1.0, RATHOLE_TLS),
    goal(WIREGUARD, Figure::Closing, 1.1, RATHOLE_PLAIN),
    goal(TLS, Figure::Closing, 0.9, RATHOLE_PLAIN),
    goal(TLS, Figure::LoadedP50, 2.0, SSH),
];

/// Each goal of which both sides were measured: what was reached, and whether it is enough.
pub(crate) fn judged(table: &Table) -> String {
    let mut text = "\n| goal | wanted | reached | |\n|---|---|---|---|\n".to_owned();
    let mut row = |name: String, wanted: String, reached: String, met: bool| {
        let met = if met { "met" } else { "**missed**" };
        let _ = writeln!(text, "| {name} | {wanted} | {reached} | {met} |");
    };
    for goal in &GOALS {
        let value = |system| table.median(system, goal.figure);
        if let (Some(ours), Some(other)) = (value(goal.ours), value(goal.other)) {
            let ratio = ours / other;
            let (sign, met) = if goal.figure.more_is_better() {
                ('≥', ratio >= goal.factor)
            } else {
                ('≤', ratio <= goal.factor)
            };
            let name = format!("{}: {}, to {}", goal.ours, goal.figure.name(), goal.other);
            row(
                name,
                format!("{sign} {:.2}", goal.factor),
                format!("{ratio:.2}"),
                met,
            );
        }
    }
    for (ours, figure, most) in ABSOLUTE {
        if let Some(value) = table.median(ours, figure) {
            let name = format!("{ours}: {}", figure.name());
            let digits = figure.digits();
            row(
                name,
                format!("≤ {most:.0}"),
                format!("{value:.digits$}"),
                value <= most,
            );
        }
    }
    text
}
