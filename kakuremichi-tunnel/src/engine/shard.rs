//! The thread of a shard, and its loop.

use std::{cell::RefCell, collections::BTreeMap, io, pin::pin, rc::Rc, sync::Arc, thread, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime,
    sync::watch,
    task::LocalSet,
    time,
};

use super::{
    LocalShard, Shard, ShardConfig, SpawnError,
    command::Inbox,
    net,
    turn::{Engine, Parts, Turned},
    udp::Udp,
};

/// Starts the thread; everything that can fail is done before.
pub(super) fn spawn(
    config: ShardConfig,
    build: impl FnOnce(LocalShard) + Send + 'static,
) -> Result<Shard, SpawnError> {
    let sockets = net::bind(&config.bind)?;
    let addresses = sockets
        .iter()
        .map(std::net::UdpSocket::local_addr)
        .collect::<io::Result<_>>();
    let inbox = Arc::new(Inbox::new(config.limits.requests));
    let (publisher, peers) = watch::channel(Arc::new(BTreeMap::new()));
    let poll = mio::Poll::new().map_err(SpawnError::Thread)?;
    let registry = || poll.registry().try_clone().map_err(SpawnError::Thread);
    let udp = Udp::new(sockets, registry()?).map_err(SpawnError::Thread)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SpawnError::Thread)?;
    let parts = Parts::new(&config, udp, registry()?, Arc::clone(&inbox), publisher)?;
    let shard = Shard {
        inbox: Arc::clone(&inbox),
        peers,
        addresses: addresses.map_err(SpawnError::Thread)?,
    };
    let own = shard.clone();
    let body = move || {
        // Also when something panics: nobody is to wait for an engine that is gone.
        let _closer = Closer(inbox);
        let tasks = LocalSet::new();
        runtime.block_on(tasks.run_until(async move {
            let local = LocalShard {
                shard: own,
                handler: Rc::new(RefCell::new(None)),
            };
            let engine = Engine::new(parts, Rc::clone(&local.handler));
            build(local);
            if let Err(error) = run(engine, poll).await {
                tracing::error!(%error, "the shard cannot wait for its sockets");
            }
        }));
    };
    let thread = thread::Builder::new().name(format!("kakuremichi-{}", config.name));
    thread.spawn(body).map_err(SpawnError::Thread)?;
    Ok(shard)
}

struct Closer(Arc<Inbox>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
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
