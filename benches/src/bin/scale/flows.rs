//! Many flows through one gateway: what each costs, and how a request fares beside them.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, cpu_seconds, free_port, print, resident_bytes, sibling},
};

use crate::visits::{self, Origin};

/// Flows behind one agent: a gateway takes 8,192 of one peer, and the agent has a socket for each.
const PER_AGENT: usize = 7_500;
/// How long the processes are left alone before something is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the gateway is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(20);
/// Requests on one connection.
const REQUESTS: usize = 2_000;
/// How long visits are timed.
const VISITS: Duration = Duration::from_secs(5);

/// Measures so many flows.
pub(crate) fn measure(count: usize) -> Result<(), Trouble> {
    let origin = Origin::start()?;
    let mut deployment = Deployment::start(&format!("flows-{count}"), &["--lane", "wireguard"])?;
    let mut services = Vec::new();
    for (number, first) in (0..count).step_by(PER_AGENT).enumerate() {
        let (agent, port) = (format!("agent-{number}"), free_port()?);
        deployment.add_agent(&agent)?;
        deployment.publish_tcp_at(&agent, &format!("held-{number}"), port, origin.port)?;
        services.push((port, PER_AGENT.min(count - first)));
    }
    let port = free_port()?;
    deployment.publish_tcp("visited", port, origin.port)?;
    visits::wait_until_served(port)?;
    for (port, _) in &services {
        visits::wait_until_served(*port)?;
    }
    say(count, "a request, alone", on_one_connection(port)?);
    say(count, "a visit, alone", visits::for_a_while(port, VISITS));
    thread::sleep(SETTLE);
    let resident = |deployment: &Deployment| {
        let agents: f64 = deployment.further_agents().map(resident_bytes).sum();
        (resident_bytes(deployment.ends()[0]), agents)
    };
    let before = resident(&deployment);
    let mut held = Vec::new();
    for (port, count) in services {
        held.push(Held::open(port, count)?);
    }
    thread::sleep(SETTLE);
    let after = resident(&deployment);
    let each = |before: f64, after: f64| (after - before) / 1024.0 / count as f64;
    say(
        count,
        "resident for each",
        format!(
            "{:.1} KiB at the gateway, {:.1} KiB at the agents",
            each(before.0, after.0),
            each(before.1, after.1)
        ),
    );
    let used = cpu_seconds(deployment.ends()[0]);
    thread::sleep(IDLE);
    let share = (cpu_seconds(deployment.ends()[0]) - used) / IDLE.as_secs_f64() * 100.0;
    say(count, "the gateway while idle", format!("{share:.1} % of a core"));
    say(count, "a request beside them", on_one_connection(port)?);
    say(count, "a visit beside them", visits::for_a_while(port, VISITS));
    // The system itself takes longer to connect the more of its ports are in use.
    let direct = visits::for_a_while(origin.port, VISITS);
    say(count, "a visit to the target itself beside them", direct);
    Ok(())
}

fn say(count: usize, what: &str, figure: impl std::fmt::Display) {
    print(&format!("{count} flows: {what}: {figure}\n"));
}

fn on_one_connection(port: u16) -> Result<visits::Waits, Trouble> {
    visits::on_one_connection(port, REQUESTS).map_err(Trouble::io("a request"))
}

/// Visitors who stay; they leave with the value.
struct Held(Child);

impl Held {
    /// Opens so many connections, and has one request answered on each.
    fn open(port: u16, count: usize) -> Result<Self, Trouble> {
        let mut command = Command::new(sibling("visitor")?);
        command.args(["hold", &format!("127.0.0.1:{port}"), &count.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(Trouble::io("cannot run visitor"))?;
        let mut held = Self(child);
        let mut said = String::new();
        if let Some(out) = held.0.stdout.take() {
            let read = BufReader::new(out).read_line(&mut said);
            read.map_err(Trouble::io("visitor's output"))?;
        }
        if said.trim() == "held" {
            return Ok(held);
        }
        Err(Trouble::Failed {
            program: "visitor".to_owned(),
            said: format!("{count} connections could not be held (it says why above)"),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
