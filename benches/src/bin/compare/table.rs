//! Medians, and ratios to ssh.

use std::fmt;

use kakuremichi_benches::machine::median;

use super::{load::Sample, system::REFERENCE};

/// The samples of each system, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<(&'static str, Vec<Sample>)>,
}

impl Table {
    /// Adds what one round gave.
    pub(crate) fn add(&mut self, system: &'static str, sample: Sample) {
        match self.rows.iter_mut().find(|(name, _)| *name == system) {
            Some((_, samples)) => samples.push(sample),
            None => self.rows.push((system, vec![sample])),
        }
    }

    fn median(&self, system: &str, figure: fn(&Sample) -> f64) -> f64 {
        let samples = self.rows.iter().filter(|(name, _)| *name == system);
        median(samples.flat_map(|(_, samples)| samples).map(figure).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.rows.iter().map(|(_, samples)| samples.len()).min();
        let rounds = rounds.unwrap_or(0);
        writeln!(
            f,
            "\nmedians of {rounds} rounds; in parentheses the ratio to {REFERENCE}\n"
        )?;
        write!(f, "| system |")?;
        for column in &COLUMNS {
            write!(f, " {} |", column.name)?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(COLUMNS.len()))?;
        for (system, _) in &self.rows {
            write!(f, "| {system} |")?;
            for column in &COLUMNS {
                let value = self.median(system, column.figure);
                let ratio = value / self.median(REFERENCE, column.figure);
                write!(f, " {value:.*} ({ratio:.2}) |", column.digits)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A column: its heading, what stands in it, and with how many digits behind the point.
struct Column {
    name: &'static str,
    figure: fn(&Sample) -> f64,
    digits: usize,
}

const COLUMNS: [Column; 7] = [
    Column {
        name: "up, Gbit/s",
        figure: |sample| sample.up,
        digits: 2,
    },
    Column {
        name: "down, Gbit/s",
        figure: |sample| sample.down,
        digits: 2,
    },
    Column {
        name: "CPU-s per GB",
        figure: |sample| sample.cpu_per_gb,
        digits: 2,
    },
    Column {
        name: "requests/s",
        figure: |sample| sample.requests.rate,
        digits: 0,
    },
    Column {
        name: "p50, ms",
        figure: |sample| sample.requests.p50,
        digits: 2,
    },
    Column {
        name: "p99, ms",
        figure: |sample| sample.requests.p99,
        digits: 2,
    },
    Column {
        name: "CPU-µs per request",
        figure: |sample| sample.cpu_per_request,
        digits: 0,
    },
];
