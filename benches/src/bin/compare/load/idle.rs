//! Connections on which nothing happens any more.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use kakuremichi_benches::machine::{Trouble, sibling};

use crate::system::System;

/// How long nothing has happened when it is measured: some systems give memory back then.
const QUIET: Duration = Duration::from_secs(10);

/// KiB of resident memory of both ends for each of so many connections.
pub(super) fn kib_per_connection(system: &System, count: usize) -> Result<f64, Trouble> {
    let before = system.resident_bytes();
    let mut hold = system.visitor(sibling("visitor")?);
    hold.args(["hold", &system.http.to_string(), &count.to_string()]);
    hold.args(&system.trusted);
    hold.stdin(Stdio::piped()).stdout(Stdio::piped());
    let visitors = hold.spawn().map_err(Trouble::io("cannot run visitor"))?;
    let mut visitors = Ended(visitors);
    let mut said = String::new();
    if let Some(out) = visitors.0.stdout.take() {
        let read = BufReader::new(out).read_line(&mut said);
        read.map_err(Trouble::io("visitor's output"))?;
    }
    if said.trim() != "held" {
        return Err(Trouble::Failed {
            program: "visitor".to_owned(),
            said: format!("{count} connections could not be held (it says why above)"),
        });
    }
    thread::sleep(QUIET);
    let after = system.resident_bytes();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand connections")]
    let count = count as f64;
    Ok((after - before) / 1024.0 / count)
}

/// A process that is ended with the value: its connections with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
