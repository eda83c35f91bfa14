//! Requests, by wrk.

use std::process::Command;

use kakuremichi_benches::machine::{Trouble, output};

use crate::system::System;

/// What wrk counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Requests {
    /// Per second.
    pub(crate) rate: f64,
    /// The median, in microseconds.
    pub(crate) p50: f64,
    /// What 99 of 100 stay below, in microseconds.
    pub(crate) p99: f64,
    /// All of them.
    pub(crate) count: f64,
}

/// How the requests come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Connections at once.
    pub(crate) connections: u16,
    /// Whether each request has a connection of its own.
    pub(crate) closing: bool,
    /// For how long.
    pub(crate) seconds: u64,
}

/// A run of wrk that has not begun.
pub(crate) fn command(system: &System, shape: Shape) -> Command {
    let Shape {
        connections,
        closing,
        seconds,
    } = shape;
    let mut wrk = system.visitor("wrk");
    let threads = connections.min(2);
    wrk.args([
        &format!("-t{threads}"),
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
    ]);
    wrk.args(["--latency", "--timeout", "10s"]);
    if closing {
        wrk.args(["-H", "Connection: close"]);
    }
    wrk.arg(system.url());
    wrk
}

/// One run.
pub(crate) fn run(system: &System, shape: Shape) -> Result<Requests, Trouble> {
    read(&output(&mut command(system, shape))?, shape)
}

/// What a run printed. It is a failure when nothing was answered, when an answer was other than 2xx or 3xx, or when more than one of a
/// thousand requests met a socket error; with a connection each, ends of connections are counted as errors, too.
pub(crate) fn read(text: &str, shape: Shape) -> Result<Requests, Trouble> {
    let tolerable = |requests: &Requests| {
        let errors = errors(text).unwrap_or(0.0);
        requests.count > 0.0
            && !text.contains("Non-2xx")
            && (shape.closing || errors * 1000.0 <= requests.count)
    };
    parse(text).filter(tolerable).ok_or_else(|| Trouble::Unreadable {
        program: "wrk".to_owned(),
        said: text.to_owned(),
    })
}

/// All socket errors: `Socket errors: connect 0, read 1, write 0, timeout 0`.
fn errors(text: &str) -> Option<f64> {
    let mut lines = text.lines().map(str::trim);
    let counts = lines.find_map(|line| line.strip_prefix("Socket errors:"))?;
    let count = |part: &str| part.split_whitespace().nth(1)?.parse::<f64>().ok();
    counts.split(',').map(count).sum()
}

fn parse(text: &str) -> Option<Requests> {
    let after = |start: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(start)).map(str::trim)
    };
    let count = text
        .lines()
        .find(|line| line.contains(" requests in "))?
        .split_whitespace()
        .next()?;
    Some(Requests {
        rate: after("Requests/sec:")?.parse().ok()?,
        p50: microseconds(after("50%")?)?,
        p99: microseconds(after("99%")?)?,
        count: count.parse().ok()?,
    })
}

/// Reads one of wrk's times: `733.00us`, `1.90ms`, `1.10s`.
fn microseconds(text: &str) -> Option<f64> {
    let (number, scale) = if let Some(number) = text.strip_suffix("us") {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1e3)
    } else {
        (text.strip_suffix('s')?, 1e6)
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Running 3s test @ http://127.0.0.1:1/\n  2 threads and 32 connections\n  Thread Stats   \
                           Avg\n    Latency   733.00us    1.2ms\n  Latency Distribution\n     50%  656.00us\n     \
                           75%    0.8ms\n     90%    1.0ms\n     99%    1.90ms\n  120000 requests in 3.00s, 140MB \
                           read\nRequests/sec:  40000.50\nTransfer/sec:     46.6MB\n";

    #[test]
    fn what_wrk_prints_is_read() {
        let read = parse(PRINTED).unwrap();
        let expected = Requests {
            rate: 40_000.5,
            p50: 656.0,
            p99: 1900.0,
            count: 120_000.0,
        };
        assert_eq!(read, expected);
        assert_eq!(microseconds("1.10s"), Some(1_100_000.0));
        assert!(parse("unable to connect").is_none());
    }

    #[test]
    fn an_answer_that_is_an_error_is_a_failure() {
        let shape = Shape {
            connections: 1,
            closing: false,
            seconds: 1,
        };
        assert!(read(PRINTED, shape).is_ok());
        let errors =
            |count: u32| format!("{PRINTED}  Socket errors: connect 0, read {count}, write 0, timeout 0\n");
        assert!(read(&errors(120), shape).is_ok());
        assert!(read(&errors(121), shape).is_err());
        assert!(read(&format!("{PRINTED}  Non-2xx or 3xx responses: 7\n"), shape).is_err());
    }
}
