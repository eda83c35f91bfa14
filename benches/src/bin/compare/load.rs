//! The work: iperf3 for bulk, wrk for requests.

use std::process::Command;

use kakuremichi_benches::{
    machine::{Trouble, output, wait_for},
    rest::Rest,
};
use serde_json::Value;

use super::system::System;

/// Seconds of one bulk measurement.
const BULK_SECONDS: &str = "3";
/// Duration of one request measurement.
const REQUEST_SECONDS: &str = "3s";

/// What one system did in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Gbit/s from the visitor to the service, one stream.
    pub(crate) up: f64,
    /// Gbit/s from the service to the visitor, one stream.
    pub(crate) down: f64,
    /// Seconds of processor time per GB, both ends, over both directions.
    pub(crate) cpu_per_gb: f64,
    /// Requests over 32 connections.
    pub(crate) requests: Requests,
    /// Microseconds of processor time per request, both ends.
    pub(crate) cpu_per_request: f64,
}

/// What wrk counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requests {
    /// Per second.
    pub(crate) rate: f64,
    /// The median, in milliseconds.
    pub(crate) p50: f64,
    /// What 99 of 100 stay below, in milliseconds.
    pub(crate) p99: f64,
    /// All of them.
    count: f64,
}

/// Waits until both services are reached: bytes arrive, and requests are answered.
pub(crate) fn wait_until_served(system: &System) -> Result<(), Trouble> {
    let http = Rest::open(system.http_port);
    wait_for(&format!("{} for requests", system.name), || http.is_ok("/"))?;
    // A connection without a transfer counts as an error there, and too many of them end the server.
    let mut iperf3 = iperf3(system.bulk_port);
    iperf3.args(["-n", "64K"]);
    wait_for(&format!("{} for bulk", system.name), || {
        output(&mut iperf3).is_ok()
    })
}

/// Measures one system once.
pub(crate) fn measure(system: &System) -> Result<Sample, Trouble> {
    let start = system.cpu_seconds();
    let (up, up_bytes) = bulk(system.bulk_port, &[])?;
    let (down, down_bytes) = bulk(system.bulk_port, &["-R"])?;
    let middle = system.cpu_seconds();
    let requests = requests(system.http_port)?;
    let end = system.cpu_seconds();
    Ok(Sample {
        up,
        down,
        cpu_per_gb: (middle - start) / ((up_bytes + down_bytes) / 1e9),
        requests,
        cpu_per_request: (end - middle) * 1e6 / requests.count,
    })
}

/// One iperf3 run: Gbit/s and bytes, as the receiving end counted them, so what was lost on the way
/// does not count.
fn bulk(port: u16, extra: &[&str]) -> Result<(f64, f64), Trouble> {
    let mut iperf3 = iperf3(port);
    iperf3.args(["-t", BULK_SECONDS, "--json"]).args(extra);
    // Its server takes one test at a time, and may not have left the one before yet.
    let mut text = output(&mut iperf3);
    wait_for("iperf3's server for the next test", || {
        let busy = matches!(&text, Err(Trouble::Failed { said, .. }) if said.contains("server is busy"));
        if busy {
            text = output(&mut iperf3);
        }
        !busy
    })?;
    let text = text?;
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    let received = &report["end"]["sum_received"];
    let field = |name: &str| received[name].as_f64().filter(|value| *value > 0.0);
    match (field("bits_per_second"), field("bytes")) {
        (Some(bits), Some(bytes)) => Ok((bits / 1e9, bytes)),
        _ => Err(Trouble::Unreadable {
            program: "iperf3".to_owned(),
            said: text,
        }),
    }
}

fn iperf3(port: u16) -> Command {
    let mut command = Command::new("iperf3");
    command.args(["-c", "127.0.0.1", "-p", &port.to_string()]);
    command
}

/// One wrk run. An answer other than 2xx or 3xx, or a socket error, makes it a failure.
fn requests(port: u16) -> Result<Requests, Trouble> {
    let url = format!("http://127.0.0.1:{port}/");
    let text = output(Command::new("wrk").args(["-t2", "-c32", "--latency", "-d", REQUEST_SECONDS, &url]))?;
    let failed = text.contains("Non-2xx") || text.contains("Socket errors");
    parse(&text)
        .filter(|_| !failed)
        .ok_or_else(|| Trouble::Unreadable {
            program: "wrk".to_owned(),
            said: text,
        })
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
        p50: milliseconds(after("50%")?)?,
        p99: milliseconds(after("99%")?)?,
        count: count.parse().ok()?,
    })
}

/// Reads one of wrk's times: `733.00us`, `1.90ms`, `1.10s`.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, scale) = if let Some(number) = text.strip_suffix("us") {
        (number, 1e-3)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1e3)
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  2 threads and 32 connections\n  Thread Stats   Avg\n    \
                    Latency   733.00us    1.2ms\n  Latency Distribution\n     50%  656.00us\n     75%    0.8ms\n     \
                    90%    1.0ms\n     99%    1.90ms\n  120000 requests in 3.00s, 140MB read\nRequests/sec:  40000.50\n\
                    Transfer/sec:     46.6MB\n";
        let read = parse(text).unwrap();
        assert_eq!(
            (read.rate, read.p50, read.p99, read.count),
            (40_000.5, 0.656, 1.9, 120_000.0)
        );
        assert_eq!(milliseconds("1.10s"), Some(1100.0));
        assert!(parse("unable to connect").is_none());
    }
}
