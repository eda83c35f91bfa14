//! The life of an agent.

use std::{sync::Arc, time::Duration};

use kakuremichi_bins_common::{
    Admin, DataDir, Drained, Failure, Role, Signals,
    settings::{Common, FirstSecret},
};
use kakuremichi_core::{code::Code, plan::Revision};
use kakuremichi_tunnel::{
    agent::Agent,
    error::{CloseReason, SpawnError},
    link::SetupError,
};

use crate::{Settings, Source};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs an agent until a signal ends it, or Control refuses it for good.
///
/// # Errors
///
/// A setting that cannot be used, or why Control refuses the agent. A Control that cannot be reached is no
/// error: it is looked for again and again.
pub async fn play(settings: Settings, common: Common) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let data = DataDir::open(&settings.data)?;
    let admin = Admin::bind(common.admin, Role::Agent)?;
    let token = settings.token.as_ref().map_or("", FirstSecret::text);
    let mut builder = Agent::builder(&settings.control, token).state_dir(data.path());
    builder = builder.lane(settings.lane.into()).standby(settings.standby);
    builder = builder.lane_connections(settings.lane_connections.get());
    builder = builder.flow_memory(settings.flow_memory.saturating_mul(1 << 20));
    if let Some(days) = settings.rotate_keys_after {
        builder = builder.rotate_keys_after(DAY * days.get().into());
    }
    if let Some(proxy) = &settings.egress_proxy {
        builder = builder.egress_proxy(proxy.expose());
    }
    if let Some(name) = &settings.name {
        builder = builder.name(name);
    }
    let agent = builder.spawn().await.map_err(|error| {
        let unreadable = settings.token.as_ref().and_then(FirstSecret::unreadable);
        match (&error, unreadable) {
            (SpawnError::Setup(SetupError::NoToken), Some(unreadable)) => unreadable,
            _ => Failure::because("cannot start the agent", &error),
        }
    })?;
    let _admin = admin.serve(Arc::new(Source::new(&agent)))?;
    tracing::info!(control = settings.control, "the agent runs");
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining");
            let grace = Duration::from_secs(common.grace);
            match signals.drain(grace, agent.shutdown(grace)).await {
                Drained::Done(report) => tracing::info!(cut = report.cut, "the agent ended"),
                Drained::TimeUp | Drained::Cut => tracing::warn!("the agent ended before it had drained"),
            }
            Ok(())
        }
        reason = refusal(&agent) => Err(Failure::because("the agent ends", &reason)),
    }
}

/// Waits until Control refuses the agent in a way that must end it: it was revoked, or it has nothing to
/// serve. Any other refusal (an upgraded Control with which it cannot speak) leaves visitors served by the
/// last plan.
async fn refusal(agent: &Agent) -> CloseReason {
    let reason = agent.closed().await;
    let code = match &reason {
        CloseReason::Link(end) => end.code(),
        _ => None,
    };
    let revoked = matches!(code, Some(Code::NODE_REVOKED | Code::NODE_UNKNOWN));
    let serving = agent.watch_status().borrow().revision != Revision::default();
    if serving && !revoked {
        tracing::error!(%reason, "Control refuses this agent: it goes on by its last plan");
        std::future::pending::<()>().await;
    }
    reason
}
