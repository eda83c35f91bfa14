//! All three roles in one process, for a first look.
//!
//! They are as apart as they would be on three machines: enrolled with tokens over the real WebSocket, joined
//! by real WireGuard over UDP, each with a directory of its own. Nothing takes a short cut inside the process.

mod check;
mod config;
mod demo;
mod roles;
mod summary;

pub(crate) use config::{SETTINGS, Settings};

use std::{sync::Arc, time::Duration};

use kakuremichi_bins_common::{
    Admin, AdminSource, DataDir, Drained, Exposition, Failure, Readiness, Role, Signals, run,
    settings::Common,
};

use self::{config::Config, roles::Roles, summary::Summary};

/// Runs everything until a signal ends it.
pub(crate) async fn play(settings: Settings, common: Common) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let config = Config::try_from(settings)?;
    let data = DataDir::open(&config.data)?;
    let admin = Admin::bind(common.admin, Role::Quickstart)?;
    let grace = Duration::from_secs(common.grace);
    let roles = tokio::select! {
        roles = Roles::start(&config, &data) => roles?,
        signal = signals.next() => {
            tracing::info!(signal, "ended before everything had started");
            return Ok(());
        }
    };
    let admin_address = admin.address();
    let _admin = admin.serve(Arc::new(Source::new(&roles)))?;
    let summary = Summary::new(&config, &data, &roles, admin_address);
    run::print(&if config.json {
        summary.json()
    } else {
        summary.text()
    })?;
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "draining"),
        failure = roles.failed() => return Err(failure),
    }
    match signals.drain(grace, roles.shutdown(grace)).await {
        Drained::Done(()) => {}
        Drained::TimeUp | Drained::Cut => tracing::warn!("ended before everything had drained"),
    }
    Ok(())
}

/// What the three roles tell together.
#[derive(Debug)]
struct Source(Vec<(Role, Box<dyn AdminSource>)>);

impl Source {
    fn new(roles: &Roles) -> Self {
        Self(roles.sources())
    }
}

impl AdminSource for Source {
    fn readiness(&self) -> Readiness {
        let not_ready = self
            .0
            .iter()
            .map(|(_, source)| source.readiness())
            .find(|one| *one != Readiness::Ready);
        not_ready.unwrap_or(Readiness::Ready)
    }

    fn metrics(&self, page: &mut Exposition) {
        for (role, source) in &self.0 {
            page.of_role(*role);
            source.metrics(page);
        }
    }
}
