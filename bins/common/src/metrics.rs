//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// What a metric means to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// A value of now.
    Gauge,
}

/// A page of metrics under construction.
///
/// ```
/// # use kakuremichi_bins_common::{Exposition, MetricKind};
/// let mut page = Exposition::default();
/// page.family("kakuremichi_flows", "Flows that are open.", MetricKind::Gauge);
/// page.sample("kakuremichi_flows", &[("service", "demo")], 3);
/// assert!(page.as_str().ends_with("kakuremichi_flows{service=\"demo\"} 3\n"));
/// ```
#[derive(Debug, Default, Clone)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric: its name, what it says in one sentence, and its kind. Its samples follow.
    pub fn family(&mut self, name: &str, help: &str, kind: MetricKind) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let _ = write!(self.text, "# HELP {name} ");
        self.escaped(help, false);
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
    }

    /// A sample of the metric last begun. Label values may hold anything.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            self.escaped(text, true);
            self.text.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// A metric with one sample without labels.
    pub fn single(&mut self, name: &str, help: &str, kind: MetricKind, value: impl Display) {
        self.family(name, help, kind);
        self.sample(name, &[], value);
    }

    /// The page so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The finished page.
    #[must_use]
    pub fn into_string(self) -> String {
        self.text
    }

    fn escaped(&mut self, text: &str, quotes: bool) {
        for letter in text.chars() {
            match letter {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '"' if quotes => self.text.push_str("\\\""),
                other => self.text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut page = Exposition::default();
        page.family("x_total", "a \"b\"\nc\\d", MetricKind::Counter);
        page.sample("x_total", &[("a", "\"} 1\nevil 2\\"), ("b", "ü")], 4);
        page.single("y", "plain", MetricKind::Gauge, 1.5);
        assert_eq!(
            page.into_string(),
            "# HELP x_total a \"b\"\\nc\\\\d\n# TYPE x_total counter\n\
             x_total{a=\"\\\"} 1\\nevil 2\\\\\",b=\"ü\"} 4\n\
             # HELP y plain\n# TYPE y gauge\ny 1.5\n"
        );
    }
}
