//! Sessions of datagrams that this gateway passes on for its siblings.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kakuremichi_core::model::Transport;
use kakuremichi_proto::preface::Preface;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{Open, Relays};
use crate::{
    engine::{EndReason, IncomingSession, LocalShard, Meter},
    gateway::{
        siblings::table::{RelayDenial, RelayGrant},
        upstream::{FlowError, OpenedSession},
    },
    session::TunnelSession,
};

/// How often it is asked whether the lane to the agent still carries.
const LOOK: Duration = Duration::from_secs(3);

/// The place of one session among all, for as long as it is there.
struct Place {
    relays: Rc<Relays>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relays.sessions.borrow_mut().try_remove(self.key);
        self.relays.siblings.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Relays {
    /// Takes a session that a sibling opened, or refuses it.
    pub(crate) fn take_session(self: &Rc<Self>, session: IncomingSession, local: &LocalShard) {
        let (grant, preface) = match self.judge_session(&session) {
            Ok(good) => good,
            Err(denial) => {
                self.denied(&session.peer, denial);
                return session.refuse();
            }
        };
        if self.drain.has_begun() {
            return session.refuse();
        }
        let shared = &self.siblings.0;
        if shared.sessions.fetch_add(1, Ordering::Relaxed) >= shared.session_limit {
            shared.sessions.fetch_sub(1, Ordering::Relaxed);
            shared.counters.relays_refused.one();
            return session.refuse();
        }
        shared.counters.relayed_sessions.one();
        let (revoke, revoked) = oneshot::channel();
        let key = self.sessions.borrow_mut().insert(Open {
            grant: grant.clone(),
            revoke: Some(revoke),
        });
        let place = Place {
            relays: Rc::clone(self),
            key,
        };
        local.spawn(async move {
            // Whatever is dropped by the revocation ends both sessions.
            tokio::select! {
                () = place.relays.serve_session(session, &grant, preface) => {}
                _ = revoked => {
                    tracing::info!(service_id = %grant.service, "a session that was passed on is no longer permitted");
                }
            }
            drop(place);
        });
    }

    fn judge_session(&self, session: &IncomingSession) -> Result<(RelayGrant, Preface), RelayDenial> {
        let preface = Preface::parse_datagram(&session.preface);
        let (preface, _) = preface.map_err(|_| RelayDenial::Preface)?;
        let table = self.siblings.0.table.load();
        let grant = table.admit(session.peer, session.remote.ip(), Transport::Udp, &preface)?;
        Ok((grant, preface))
    }

    /// Opens the way to the agent, and carries until either session ends.
    async fn serve_session(&self, session: IncomingSession, grant: &RelayGrant, preface: Preface) {
        let connection = preface.connection;
        let opening = self.lanes.pass_session_on(grant, preface, self.idle);
        let opened = timeout(self.connect, opening).await;
        let target = match opened.unwrap_or(Err(FlowError::TimedOut)) {
            Ok(target) => target,
            Err(error) => {
                tracing::debug!(agent = %grant.agent, %error, "no way to pass a session on");
                return session.refuse();
            }
        };
        let meter = Arc::<Meter>::default();
        let source = session.accept(Arc::clone(&meter));
        let end = self.carry(source, target, grant).await;
        let (bytes_in, bytes_out) = (meter.received(), meter.sent());
        self.siblings.0.counters.relayed_bytes.add(bytes_in + bytes_out);
        tracing::info!(
            target: "kakuremichi::relay",
            gateway = %grant.entry,
            agent = %grant.agent,
            service_id = %grant.service,
            transport = "udp",
            %connection,
            bytes_in,
            bytes_out,
            ?end,
        );
    }

    /// Carries datagrams both ways. When the target refuses, or the lane to it is down, the sibling is told,
    /// and begins anew.
    async fn carry(&self, mut source: TunnelSession, target: OpenedSession, grant: &RelayGrant) -> EndReason {
        let OpenedSession {
            session: mut target,
            way,
        } = target;
        let mut look = pin!(sleep(LOOK));
        loop {
            tokio::select! {
                ready = poll_fn(|cx| source.poll_ready(cx)) => match ready {
                    Ok(()) => source.pass_on(&target),
                    Err(end) => return end,
                },
                news = poll_fn(|cx| target.poll_news(cx, 0)) => {
                    target.pass_on(&source);
                    let end = match news {
                        Ok(()) if target.refusals() == 0 => continue,
                        Ok(()) => EndReason::Reset,
                        Err(end) => end,
                    };
                    if !matches!(end, EndReason::TimedOut | EndReason::Finished) {
                        source.refuse();
                    }
                    return end;
                }
                () = &mut look => {
                    if !self.lanes.carries_on(grant, way) {
                        source.refuse();
                        return EndReason::PeerGone;
                    }
                    look.as_mut().reset(Instant::now() + LOOK);
                }
            }
        }
    }
}
