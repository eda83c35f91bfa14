//! Bulk, by iperf3.

use std::process::Command;

use kakuremichi_benches::machine::{Trouble, output, wait_for};
use serde_json::Value;

use crate::system::System;

/// What one run moved, as the receiving end counted it: what was lost on the way does not count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// Gbit/s.
    pub(crate) rate: f64,
    /// Bytes.
    pub(crate) bytes: f64,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the visitor to the service.
    Up,
    /// From the service to the visitor.
    Down,
}

/// A run that has not begun.
pub(crate) fn command(system: &System, way: Way, streams: u16, seconds: u64) -> Command {
    let mut iperf3 = client(system);
    iperf3.args(["-t", &seconds.to_string(), "-P", &streams.to_string(), "--json"]);
    if way == Way::Down {
        iperf3.arg("-R");
    }
    iperf3
}

/// One run. Its server takes one at a time, and may not have left the one before yet.
pub(crate) fn run(system: &System, way: Way, streams: u16, seconds: u64) -> Result<Bulk, Trouble> {
    let mut iperf3 = command(system, way, streams, seconds);
    let mut text = output(&mut iperf3);
    wait_for("iperf3's server for the next test", || {
        let said = match &text {
            Ok(said) | Err(Trouble::Failed { said, .. }) => said,
            Err(_) => "",
        };
        let busy = said.contains("server is busy");
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
        (Some(bits), Some(bytes)) => Ok(Bulk {
            rate: bits / 1e9,
            bytes,
        }),
        _ => Err(Trouble::Unreadable {
            program: "iperf3".to_owned(),
            said: text,
        }),
    }
}

/// Waits until a small transfer succeeds.
pub(crate) fn wait_until_served(system: &System) -> Result<(), Trouble> {
    // A connection without a transfer counts as an error there, and too many of them end the server.
    let mut iperf3 = client(system);
    iperf3.args(["-n", "64K"]);
    wait_for(&format!("{} for bulk", system.name), || {
        output(&mut iperf3).is_ok()
    })
}

fn client(system: &System) -> Command {
    let mut iperf3 = system.visitor("iperf3");
    let (host, port) = (system.bulk.ip().to_string(), system.bulk.port().to_string());
    iperf3.args(["-c", &host, "-p", &port, "--connect-timeout", "5000"]);
    iperf3
}
