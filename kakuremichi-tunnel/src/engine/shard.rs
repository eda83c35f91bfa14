//! The thread of a shard, and its loop.

use std::{
    cell::RefCell, collections::BTreeMap, io, net::UdpSocket, pin::pin, rc::Rc, sync::Arc, thread,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{self, Runtime},
    sync::watch,
    task::LocalSet,
    time,
};

use super::{
    LocalShard, Metrics, Shard, ShardConfig, SpawnError, clock,
    command::Inbox,
    handover::{Handover, Siblings},
    net,
    turn::{Engine, Parts, Publisher, Sources, Turned},
    udp::Udp,
};
use crate::{
    random::SplitMix64,
    wg::{Device, DeviceConfig, Owners},
};

/// What runs on a shard's thread before anything else.
pub type BuildShard = Box<dyn FnOnce(LocalShard) + Send>;

/// A shard that has no thread yet.
struct Ready {
    shard: Shard,
    parts: Parts,
    poll: mio::Poll,
    runtime: Runtime,
    siblings: Arc<Siblings>,
}

/// Starts a shard for each of `builds`; everything that can fail is done before the first.
pub(super) fn spawn(
    config: &ShardConfig,
    builds: Vec<BuildShard>,
) -> Result<(Vec<Shard>, Arc<Owners>), SpawnError> {
    let count = builds.len() as u8;
    let now = clock::now();
    let mut seeds = [0; 8];
    seeds.copy_from_slice(&config.seed[8..]);
    let mut random = SplitMix64::new(u64::from_le_bytes(seeds));
    let mut device = DeviceConfig::new(config.private_key.clone(), random.next());
    device.handshakes = config.handshakes;
    let devices = Device::for_shards(&device, count, now);
    let owners = devices.first().map(|device| Arc::clone(device.owners()));
    let owners = owners.ok_or(SpawnError::Addresses)?;
    let sockets = net::bind(&config.bind, count, config.steering)?;
    let inboxes: Vec<_> = builds
        .iter()
        .map(|_| Arc::new(Inbox::new(config.limits.requests)))
        .collect();
    let siblings = Siblings::new(inboxes.clone(), &sockets).map_err(SpawnError::Thread)?;
    let siblings = Arc::new(siblings);
    seeds.copy_from_slice(&config.seed[..8]);
    let mut random = SplitMix64::new(u64::from_le_bytes(seeds));
    let mut ready = Vec::new();
    for (own, ((device, sockets), inbox)) in devices.into_iter().zip(sockets).zip(inboxes).enumerate() {
        let handover = Handover::new(Arc::clone(&siblings), own);
        ready.push(prepare(config, device, sockets, inbox, handover, &mut random)?);
    }
    let shards = ready.iter().map(|ready| ready.shard.clone()).collect();
    for (number, (ready, build)) in ready.into_iter().zip(builds).enumerate() {
        let name = match count {
            1 => format!("kakuremichi-{}", config.name),
            // Linux shows fifteen characters: the number is to be among them.
            _ => format!("km-{}-{number}", config.name),
        };
        if let Err(error) = start(ready, name, number as u8, build) {
            // Those that run end themselves.
            siblings.orphan();
            return Err(SpawnError::Thread(error));
        }
    }
    Ok((shards, owners))
}

fn prepare(
    config: &ShardConfig,
    device: Device,
    sockets: Vec<UdpSocket>,
    inbox: Arc<Inbox>,
    handover: Handover,
    random: &mut SplitMix64,
) -> Result<Ready, SpawnError> {
    let addresses = sockets
        .iter()
        .map(UdpSocket::local_addr)
        .collect::<io::Result<_>>();
    let (peers, published) = watch::channel(Arc::new(BTreeMap::new()));
    let (metrics, counted) = watch::channel(Metrics::default());
    let poll = mio::Poll::new().map_err(SpawnError::Thread)?;
    let registry = || poll.registry().try_clone().map_err(SpawnError::Thread);
    let udp = Udp::new(sockets, registry()?).map_err(SpawnError::Thread)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SpawnError::Thread)?;
    let shard = Shard {
        inbox: Arc::clone(&inbox),
        peers: published,
        metrics: counted,
        addresses: addresses.map_err(SpawnError::Thread)?,
        keys: Arc::clone(device.own_keys()),
    };
    let siblings = Arc::clone(handover.siblings());
    let sources = Sources {
        device,
        udp,
        registry: registry()?,
        inbox,
        handover,
    };
    let publisher = Publisher { peers, metrics };
    let parts = Parts::new(config, sources, publisher, random, clock::now())?;
    Ok(Ready {
        shard,
        parts,
        poll,
        runtime,
        siblings,
    })
}

fn start(ready: Ready, name: String, number: u8, build: BuildShard) -> io::Result<()> {
    let Ready {
        shard,
        parts,
        poll,
        runtime,
        siblings,
    } = ready;
    let body = move || {
        let mut closer = Closer {
            inbox: Arc::clone(&shard.inbox),
            siblings,
            in_order: false,
        };
        let tasks = LocalSet::new();
        let ended = runtime.block_on(tasks.run_until(async move {
            let local = LocalShard {
                shard,
                number,
                handler: Rc::new(RefCell::new(None)),
                session_handler: Rc::new(RefCell::new(None)),
            };
            let engine = Engine::new(
                parts,
                Rc::clone(&local.handler),
                Rc::clone(&local.session_handler),
            );
            build(local);
            run(engine, poll).await
        }));
        match ended {
            Ok(()) => closer.in_order = true,
            Err(error) => tracing::error!(%error, "the shard cannot wait for its sockets"),
        }
    };
    thread::Builder::new().name(name).spawn(body)?;
    Ok(())
}

/// Closes the mailbox, also when something panics: nobody is to wait for an engine that is gone. The
/// other shards of the node end too then, or the peers of this one would be lost until somebody notices.
struct Closer {
    inbox: Arc<Inbox>,
    siblings: Arc<Siblings>,
    in_order: bool,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.inbox.close();
        if !self.in_order {
            self.siblings.orphan();
        }
    }
}

/// Has turns until the engine is done.
async fn run(mut engine: Engine, poll: mio::Poll) -> io::Result<()> {
    let mut poll = watch_poll(poll)?;
    let inbox = Arc::clone(engine.inbox());
    let mut sleep = pin!(timer());
    loop {
        match engine.turn(poll.get_mut()) {
            Turned::Done => return Ok(()),
            // Other tasks of this thread come between two turns.
            Turned::Again => tokio::task::yield_now().await,
            Turned::Sleep(deadline) => {
                let timer = deadline.is_some();
                if let Some(deadline) = deadline {
                    sleep.as_mut().reset(deadline.into());
                }
                tokio::select! {
                    biased;
                    // Cleared before the sockets are looked at, so nothing is missed in between.
                    ready = poll.readable() => ready?.clear_ready(),
                    () = inbox.woken() => {}
                    () = &mut sleep, if timer => {}
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where the shard waits")]
fn timer() -> time::Sleep {
    time::sleep(Duration::ZERO)
}

/// Lets tokio tell when mio has something to tell.
#[expect(unsafe_code, reason = "tokio cannot see that a poll keeps its descriptor")]
fn watch_poll(poll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    // SAFETY: a `Poll` owns its descriptor, which is open and the same for as long as the `Poll` lives,
    // and the `AsyncFd` owns the `Poll`.
    Ok(unsafe { AsyncFd::register_with_interest(poll, Interest::READABLE) }?)
}
