//! The table, drawn: a panel for each of the figures that tell most, a bar for each system.

use std::fmt::Write as _;

use super::{figure::Figure, table::Table};

const PANELS: [Figure; 8] = [
    Figure::Up1,
    Figure::Down1,
    Figure::CpuPerGb,
    Figure::Rate32,
    Figure::OneP50,
    Figure::Closing,
    Figure::LoadedP50,
    Figure::IdleFlow,
];

/// Pixels.
const NAMES: f64 = 190.0;
const BARS: f64 = 260.0;
const VALUES: f64 = 80.0;
const LINE: f64 = 18.0;
const HEADING: f64 = 34.0;

/// An SVG image.
pub(crate) fn drawing(table: &Table) -> String {
    let systems: Vec<&str> = table.systems().collect();
    #[expect(clippy::cast_precision_loss, reason = "a few systems and panels")]
    let rows = |count: usize| count as f64;
    let (width, height) = (NAMES + BARS + VALUES, HEADING + LINE * rows(systems.len()) + LINE);
    let (columns, lines) = (2, PANELS.len().div_ceil(2));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        width * rows(columns),
        height * rows(lines),
    );
    for (at, figure) in PANELS.into_iter().enumerate() {
        let (left, top) = (width * rows(at % columns), height * rows(at / columns));
        let better = if figure.more_is_better() { "more" } else { "less" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{} ({better} is better)</text>",
            left + NAMES,
            top + HEADING - LINE / 2.0,
            figure.name(),
        );
        let most = systems.iter().filter_map(|system| table.median(system, figure));
        let most = most.fold(f64::MIN_POSITIVE, f64::max);
        for (row, system) in systems.iter().enumerate() {
            let y = top + HEADING + LINE * rows(row);
            let base = y + LINE * 0.7;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{system}</text>",
                left + NAMES - 6.0
            );
            let value = table.median(system, figure);
            let length = BARS * value.unwrap_or(0.0).max(0.0) / most;
            let colour = if system.starts_with("kakuremichi") {
                "#b5382a"
            } else {
                "#8a94a6"
            };
            let said = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.*}", figure.digits()));
            let _ = writeln!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{base}\">{said}</text>",
                left + NAMES,
                y + 2.0,
                LINE - 5.0,
                left + NAMES + length + 5.0,
            );
        }
    }
    svg += "</svg>\n";
    svg
}
