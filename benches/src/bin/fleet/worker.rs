//! The process that a part of the fleet lives in.

use std::{
    io::BufRead as _,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kakuremichi_benches::machine::{Trouble, print};
use kakuremichi_core::model::Role;
use kakuremichi_proto::identity::TokenText;
use tokio::{runtime::Builder, sync::watch, time::interval};

use crate::{
    link::Dialler,
    node::{self, Node, Seen, Shared},
};

/// How often the counts are told.
const TELL: Duration = Duration::from_millis(50);
/// Nodes that come for the first time, per second and process.
const COME: f64 = 400.0;
/// The variable in which the token is given: what stands in a command line, everybody can read.
pub(crate) const TOKEN: &str = "FLEET_TOKEN";

/// Runs the agents `first..first + count` until standard input ends. On it `cut` comes; the counts go to standard
/// output, as three numbers: let in, with a plan, connections tried.
pub(crate) fn run(address: SocketAddr, authority: &Path, first: u32, count: u32) -> Result<(), Trouble> {
    let token = std::env::var(TOKEN).unwrap_or_default();
    let token: TokenText = token
        .parse()
        .map_err(|_| Trouble::Usage("FLEET_TOKEN is no token"))?;
    let (cut, cuts) = watch::channel(0);
    let shared = Arc::new(Shared {
        dialler: Dialler::new(address, authority)?,
        online: AtomicUsize::new(0),
        planned: AtomicUsize::new(0),
        attempts: AtomicUsize::new(0),
        cut: cuts,
    });
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Trouble::io("cannot start a runtime"))?;
    let (end, mut ended) = watch::channel(());
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == "cut" {
                cut.send_modify(|cuts| *cuts += 1);
            }
        }
        drop(end);
    });
    let lanes = watch::Sender::default();
    runtime.block_on(async {
        for place in 0..count {
            let agent = Node::new(
                first + place,
                Role::Agent,
                &token,
                &shared,
                Seen::new(),
                lanes.subscribe(),
            );
            let agent = agent.map_err(|_| Trouble::Usage("no node can be made"))?;
            tokio::spawn(async move {
                node::stagger(place, COME).await;
                agent.live().await;
            });
        }
        let mut tell = interval(TELL);
        loop {
            tokio::select! {
                _ = tell.tick() => {
                    let counts = [&shared.online, &shared.planned, &shared.attempts];
                    let [online, planned, attempts] = counts.map(|count| count.load(Ordering::Relaxed));
                    print(&format!("{online} {planned} {attempts}\n"));
                }
                _ = ended.changed() => return Ok(()),
            }
        }
    })
}
