//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::role::Role;

/// What a metric means to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// A value of now.
    Gauge,
}

/// A page of metrics under construction. Each metric stands on it once, whoever has samples of it.
///
/// ```
/// # use kakuremichi_bins_common::{Exposition, MetricKind};
/// let mut page = Exposition::default();
/// page.family("kakuremichi_flows", "Flows that are open.", MetricKind::Gauge);
/// page.sample("kakuremichi_flows", &[("service", "demo")], 3);
/// assert!(page.into_string().ends_with("kakuremichi_flows{service=\"demo\"} 3\n"));
/// ```
#[derive(Debug, Default, Clone)]
pub struct Exposition {
    /// In the order in which they were begun.
    families: Vec<Family>,
    role: Option<Role>,
}

/// A metric: its header and its samples, as text.
#[derive(Debug, Default, Clone)]
struct Family {
    name: String,
    header: String,
    samples: String,
}

impl Exposition {
    /// The samples that follow are of this role, and have it as the label `role`: for a process that plays
    /// several.
    pub const fn of_role(&mut self, role: Role) {
        self.role = Some(role);
    }

    /// Begins a metric: its name, what it says in one sentence, and its kind. Its samples follow. One that was
    /// begun before goes on.
    pub fn family(&mut self, name: &str, help: &str, kind: MetricKind) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let family = self.of_name(name);
        if family.header.is_empty() {
            let _ = write!(family.header, "# HELP {name} ");
            escape(&mut family.header, help, false);
            let _ = writeln!(family.header, "\n# TYPE {name} {kind}");
        }
    }

    /// A sample of a metric that was begun. Label values may hold anything.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let role = self.role.map(|role| ("role", role.name()));
        let text = &mut self.of_name(name).samples;
        text.push_str(name);
        let mut between = '{';
        for (label, value) in role.iter().chain(labels) {
            let _ = write!(text, "{between}{label}=\"");
            escape(text, value, true);
            text.push('"');
            between = ',';
        }
        let end = if between == '{' { "" } else { "}" };
        let _ = writeln!(text, "{end} {value}");
    }

    /// A metric with one sample without labels.
    pub fn single(&mut self, name: &str, help: &str, kind: MetricKind, value: impl Display) {
        self.family(name, help, kind);
        self.sample(name, &[], value);
    }

    /// The finished page.
    #[must_use]
    pub fn into_string(self) -> String {
        let families = self.families.into_iter();
        families
            .flat_map(|family| [family.header, family.samples])
            .collect()
    }

    fn of_name(&mut self, name: &str) -> &mut Family {
        // Usually it is the one begun last.
        let at = self.families.iter().rposition(|family| family.name == name);
        let at = at.unwrap_or_else(|| {
            self.families.push(Family {
                name: name.to_owned(),
                ..Family::default()
            });
            self.families.len() - 1
        });
        &mut self.families[at]
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
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

    #[test]
    fn a_metric_of_two_roles_stands_on_the_page_once() {
        let mut page = Exposition::default();
        for role in [Role::Gateway, Role::Agent] {
            page.of_role(role);
            page.single("up", "Whether it is.", MetricKind::Gauge, 1);
            page.family("lanes", "Lanes.", MetricKind::Gauge);
            page.sample("lanes", &[("peer", "x")], 2);
        }
        assert_eq!(
            page.into_string(),
            "# HELP up Whether it is.\n# TYPE up gauge\nup{role=\"gateway\"} 1\nup{role=\"agent\"} 1\n\
             # HELP lanes Lanes.\n# TYPE lanes gauge\n\
             lanes{role=\"gateway\",peer=\"x\"} 2\nlanes{role=\"agent\",peer=\"x\"} 2\n"
        );
    }
}
