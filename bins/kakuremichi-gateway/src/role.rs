//! The life of a gateway.

use std::{sync::Arc, time::Duration};

use kakuremichi_bins_common::{
    Admin, DataDir, Drained, Failure, Role, Signals,
    settings::{Common, FirstSecret},
};
use kakuremichi_core::code::Code;
use kakuremichi_tunnel::{
    gateway::{Gateway, SpawnError, Timeouts},
    link::{ControlLink, LinkEnd, LinkStatus, SetupError},
};

use crate::{Settings, Source, shards};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs a gateway until a signal ends it, or Control refuses it for good.
///
/// # Errors
///
/// A setting that cannot be used, or why Control refuses the gateway. A Control that cannot be reached is no
/// error: it is looked for again and again.
pub async fn play(settings: Settings, common: Common) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let certificates = settings.certificates()?;
    let shards = shards(settings.shards)?;
    let data = DataDir::open(&settings.data)?;
    let admin = Admin::bind(common.admin, Role::Gateway)?;
    let mut timeouts = Timeouts::default();
    timeouts.udp_idle = Duration::from_secs(settings.udp_idle.max(1));
    let token = settings.token.as_ref().map_or("", FirstSecret::text);
    let mut builder = Gateway::builder(ControlLink::new(&settings.control, token))
        .state_dir(data.path())
        .http(&settings.http.to_string())
        .https(&settings.https.to_string())
        .wireguard(&settings.wireguard.to_string())
        .certificates(certificates)
        .limits(settings.limits())
        .timeouts(timeouts);
    for address in &settings.public_address {
        builder = builder.public_address(address);
    }
    if let Some(port) = settings.public_https_port {
        builder = builder.public_https_port(port);
    }
    if let Some(shards) = shards {
        builder = builder.shards(shards);
    }
    if let Some(days) = settings.rotate_keys_after {
        builder = builder.rotate_keys_after(DAY * days.get().into());
    }
    if let Some(path) = &settings.geo_country {
        builder = builder.geo_country(path);
    }
    if let Some(path) = &settings.geo_asn {
        builder = builder.geo_asn(path);
    }
    if let Some(name) = &settings.name {
        builder = builder.name(name);
    }
    let gateway = builder.spawn().await.map_err(|error| {
        let unreadable = settings.token.as_ref().and_then(FirstSecret::unreadable);
        match (&error, unreadable) {
            (SpawnError::Setup(SetupError::NoToken), Some(unreadable)) => unreadable,
            _ => Failure::because("cannot start the gateway", &error),
        }
    })?;
    let _admin = admin.serve(Arc::new(Source::new(&gateway)))?;
    tracing::info!(
        control = settings.control,
        https = %gateway.https_address(),
        http = ?gateway.http_address(),
        wireguard = ?gateway.wireguard_addresses(),
        shards = gateway.shards(),
        "the gateway runs"
    );
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "draining");
            let grace = Duration::from_secs(common.grace);
            match signals.drain(grace, gateway.shutdown(grace)).await {
                Drained::Done(report) => tracing::info!(cut = report.cut, "the gateway ended"),
                Drained::TimeUp | Drained::Cut => tracing::warn!("the gateway ended before it had drained"),
            }
            Ok(())
        }
        end = refusal(&gateway) => Err(Failure::because("the gateway ends", &end)),
    }
}

/// Waits until Control refuses the gateway in a way that must end it: it was revoked, or it has nothing to
/// serve. Any other refusal (an upgraded Control with which it cannot speak) leaves visitors served by the
/// last plan.
pub async fn refusal(gateway: &Gateway) -> LinkEnd {
    let mut status = gateway.watch_status();
    loop {
        let (link, serving) = {
            let now = status.borrow_and_update();
            (now.link.clone(), now.revision.is_some())
        };
        if let LinkStatus::Ended(end @ LinkEnd::Refused(_)) = link {
            let revoked = matches!(end.code(), Some(Code::NODE_REVOKED | Code::NODE_UNKNOWN));
            if revoked || !serving {
                return end;
            }
            tracing::error!(reason = %end, "Control refuses this gateway: it goes on by its last plan");
            std::future::pending::<()>().await;
        }
        if status.changed().await.is_err() {
            return LinkEnd::Stopped;
        }
    }
}
