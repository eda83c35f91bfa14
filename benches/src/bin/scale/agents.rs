//! Many agents at one gateway: how soon they are there, what they cost while nothing happens, and how soon
//! they are back after the gateway was started anew.

use std::{
    thread,
    time::{Duration, Instant},
};

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, cpu_seconds, free_port, print, resident_bytes},
    rest::Rest,
};

use crate::{
    crowd::Crowd,
    plan,
    simulated::Gateway,
    visits::{self, Origin, Visitor, Waits},
};

/// How long the gateway is left alone before it is measured without a crowd.
const SETTLE: Duration = Duration::from_secs(5);
/// The same with a crowd: for half a minute a lane that came up is probed more often than an idle one.
const CALM: Duration = Duration::from_secs(45);
/// How long visits are timed where nothing else tells their end.
const VISITS: Duration = Duration::from_secs(5);
/// How often it is asked whether all are there.
const ASK: Duration = Duration::from_millis(250);
/// When they are given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The real agent, through which the visitors go.
const REAL: usize = 1;

/// Measures so many agents, for so long while they do nothing.
pub(crate) fn measure(count: u32, idle: Duration) -> Result<(), Trouble> {
    let origin = Origin::start()?;
    let mut deployment = Deployment::start(&format!("scale-{count}"), &[])?;
    let port = free_port()?;
    deployment.publish_tcp("visited", port, origin.port)?;
    visits::wait_until_served(port)?;
    deployment.stop_control();

    restart(&mut deployment, port, |_| Ok(()))?;
    thread::sleep(SETTLE);
    let alone = resident_bytes(deployment.ends()[0]);
    let gateway = restart(&mut deployment, port, |deployment| widened(deployment, count))?;
    say(count, "visitors before", for_a_while(port));

    let (begun, visitor) = (Moment::now(&deployment), Visitor::start(port));
    let mut crowd = Crowd::start(&gateway, count)?;
    let all = count as usize;
    wait_for_all(&deployment, "all lanes", || {
        let counts = crowd.counts();
        counts.up == all && counts.feeds == all
    })?;
    wait_for_all(&deployment, "all lanes, as the gateway sees them", || {
        lanes_up(&deployment.gateway_admin()) >= all + REAL
    })?;
    say(count, "all are up after", begun.until(&deployment));
    say(count, "visitors meanwhile", visitor.finish());

    thread::sleep(CALM);
    let begun = Moment::now(&deployment);
    thread::sleep(idle);
    let share = begun.until(&deployment);
    let resident = resident_bytes(deployment.ends()[0]);
    let each = (resident - alone) / 1024.0 / f64::from(count);
    say(
        count,
        "resident for each idle agent",
        format!("{each:.1} KiB (of {:.0} MiB)", resident / 1048576.0),
    );
    say(count, "the gateway while idle", share);
    say(count, "visitors while idle", for_a_while(port));

    crowd.be_quiet();
    thread::sleep(Duration::from_secs(1));
    let before = crowd.counts();
    deployment.stop_gateway();
    deployment.start_gateway()?;
    let (begun, visitor) = (Moment::now(&deployment), Visitor::start(port));
    wait_for_all(&deployment, "all lanes after a restart", || {
        lanes_up(&deployment.gateway_admin()) >= all + REAL
    })?;
    say(
        count,
        "all are back after a restart within",
        begun.until(&deployment),
    );
    say(count, "visitors meanwhile", visitor.finish());
    let after = crowd.counts();
    let called = after.called - before.called;
    let withheld = after.withheld - before.withheld;
    say(
        count,
        "handshakes",
        format!("{called} begun by the gateway, {withheld} withheld by agents"),
    );
    Ok(())
}

fn say(count: u32, what: &str, figure: impl std::fmt::Display) {
    print(&format!("{count} agents: {what}: {figure}\n"));
}

/// A moment, and what the gateway's process had used by then.
struct Moment {
    at: Instant,
    used: f64,
}

/// What passed since a moment.
struct Passed {
    time: Duration,
    used: f64,
}

impl Moment {
    fn now(deployment: &Deployment) -> Self {
        Self {
            at: Instant::now(),
            used: cpu_seconds(deployment.ends()[0]),
        }
    }

    fn until(&self, deployment: &Deployment) -> Passed {
        Passed {
            time: self.at.elapsed(),
            used: cpu_seconds(deployment.ends()[0]) - self.used,
        }
    }
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (time, used) = (self.time.as_secs_f64(), self.used);
        let share = used / time * 100.0;
        write!(
            f,
            "{time:.1} s, {used:.2} s of processor time ({share:.1} % of a core)"
        )
    }
}

fn for_a_while(port: u16) -> Waits {
    visits::for_a_while(port, VISITS)
}

/// Starts the gateway anew, changed in between, and waits until visitors are served.
fn restart<T>(
    deployment: &mut Deployment,
    port: u16,
    change: impl FnOnce(&Deployment) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    deployment.stop_gateway();
    let changed = change(deployment)?;
    deployment.start_gateway()?;
    visits::wait_until_served(port)?;
    Ok(changed)
}

fn widened(deployment: &Deployment, count: u32) -> Result<Gateway, Trouble> {
    let data = deployment.gateway_data();
    let node = plan::widen(&data, count)?;
    Ok(Gateway {
        key: plan::gateway_key(&data)?,
        overlay: node.address,
        socket: deployment.wireguard(),
    })
}

/// How many lanes carry, as the gateway says.
fn lanes_up(admin: &Rest) -> usize {
    let page = admin.text("/metrics").unwrap_or_default();
    let lanes = page
        .lines()
        .filter(|line| line.starts_with("kakuremichi_peer_up{"));
    lanes.filter(|line| line.ends_with(" 1")).count()
}

fn wait_for_all(deployment: &Deployment, what: &str, mut there: impl FnMut() -> bool) -> Result<(), Trouble> {
    let end = Instant::now() + PATIENCE;
    while !there() {
        if Instant::now() > end {
            let up = lanes_up(&deployment.gateway_admin());
            return Err(Trouble::Late {
                what: format!("{what} ({up} are up)"),
            });
        }
        thread::sleep(ASK);
    }
    Ok(())
}
