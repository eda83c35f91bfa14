//! Medians, side by side.

use std::fmt;

use kakuremichi_benches::machine::median;

use super::figure::{Figure, Sample};

/// The samples of each system, in the order in which they were first added.
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

    /// The systems.
    pub(crate) fn systems(&self) -> impl Iterator<Item = &'static str> {
        self.rows.iter().map(|(name, _)| *name)
    }

    /// The middle one of a system's figures, if there is any.
    pub(crate) fn median(&self, system: &str, figure: Figure) -> Option<f64> {
        let (_, samples) = self.rows.iter().find(|(name, _)| *name == system)?;
        let values: Vec<f64> = samples.iter().filter_map(|sample| sample.get(figure)).collect();
        (!values.is_empty()).then(|| median(values))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n| system |")?;
        for figure in Figure::ALL {
            write!(f, " {} |", figure.name())?;
        }
        writeln!(f, "\n|---|{}", "---|".repeat(Figure::ALL.len()))?;
        for system in self.systems() {
            write!(f, "| {system} |")?;
            for figure in Figure::ALL {
                match self.median(system, figure) {
                    Some(value) => write!(f, " {value:.*} |", figure.digits())?,
                    None => write!(f, " – |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
