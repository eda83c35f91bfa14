//! The life of Control.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kakuremichi_bins_common::{
    Admin, AdminSource, DataDir, Drained, Exposition, Failure, MetricKind, Readiness, Role, Signals, run,
    settings::Common,
};
use kakuremichi_control::{
    Control,
    serve::{Transport, serve},
    tls::{self, CertificateFiles},
};
use kakuremichi_core::secret::Secret;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Config, Files, Security};

/// A Control that serves. It ends when dropped.
#[derive(Debug)]
pub struct ControlRole {
    control: Control,
    address: SocketAddr,
    ca: Option<PathBuf>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// Nobody else uses the data directory meanwhile.
    _files: Files,
}

impl ControlRole {
    /// Runs Control until a signal ends it.
    ///
    /// # Errors
    ///
    /// A setting that cannot be used.
    pub async fn play(config: Config, common: Common) -> Result<(), Failure> {
        let mut signals = Signals::listen()?;
        let data = DataDir::open(&config.data)?;
        let admin = Admin::bind(common.admin, Role::Control)?;
        let listener = bind(config.listen).await?;
        let role = Self::start(&config, data, listener).await?;
        let _admin = admin.serve(Arc::new(Source::new(role.control.clone())))?;
        tracing::info!(address = %role.address, url = %config.public_url, "Control serves");
        // Nodes are served, whether or not somebody can be told how to make an account.
        if let Err(failure) = role.print_set_up_link().await {
            tracing::error!(%failure, "no link for the first user; the next start makes one");
        }
        let signal = signals.next().await;
        tracing::info!(signal, "draining");
        let grace = Duration::from_secs(common.grace);
        match signals.drain(grace, role.shutdown(grace)).await {
            Drained::Done(cut) => tracing::info!(cut, "Control ended"),
            Drained::TimeUp | Drained::Cut => tracing::warn!("Control ended before it had drained"),
        }
        Ok(())
    }

    /// Starts Control on a listener that [`bind`] made.
    ///
    /// # Errors
    ///
    /// When the data directory, the database or the certificate cannot be used. Nothing is left running then.
    pub async fn start(config: &Config, data: DataDir, listener: TcpListener) -> Result<Self, Failure> {
        let address = listener
            .local_addr()
            .map_err(|error| Failure::because("--listen", &error))?;
        let files = Files::new(data);
        let ca = match &config.security {
            Security::OwnAuthority => Some(files.authority()?),
            Security::Given { .. } | Security::BehindProxy { .. } | Security::Loopback => None,
        };
        let certificate = match &config.security {
            Security::Given { certificate, key } => {
                let files = CertificateFiles::open(certificate, key);
                Some(Arc::new(files.map_err(|error| unusable(&error))?))
            }
            Security::OwnAuthority | Security::BehindProxy { .. } | Security::Loopback => None,
        };
        let control = files.control(config, ca.as_ref(), certificate.clone()).await?;
        let tls = match (certificate, ca) {
            (Some(files), _) => Some(tls::watched(files)),
            (None, Some(ca)) => Some(tls::issued(ca, config.certificate_names(), SystemTime::now())),
            (None, None) => None,
        };
        let tls = tls.transpose().map_err(|error| unusable(&error))?;
        let own_authority = config.security == Security::OwnAuthority;
        let transport = Transport {
            tls,
            proxies: match &config.security {
                Security::BehindProxy { proxies } => proxies.clone(),
                Security::Given { .. } | Security::OwnAuthority | Security::Loopback => Vec::new(),
            },
        };
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, transport, control.router(), stopped));
        let ca = own_authority.then(|| files.ca_path());
        Ok(Self {
            control,
            address,
            ca,
            stop,
            server,
            _files: files,
        })
    }

    /// A link for the first user, as long as there is none.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn set_up_link(&self) -> Result<Option<Secret<String>>, Failure> {
        let link = self.control.set_up_link().await;
        link.map_err(|error| Failure::because("no set-up link can be made", &error))
    }

    async fn print_set_up_link(&self) -> Result<(), Failure> {
        match self.set_up_link().await? {
            Some(link) => run::print(&format!(
                "No user has an account yet. Make the first one, within a day:\n{}\n",
                link.expose()
            )),
            None => Ok(()),
        }
    }

    /// Control itself.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate to trust, when it is one of Control's own authority.
    #[must_use]
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Asks nodes and clients to go, and waits for them at most for `grace`. Returns how many nodes were cut.
    pub async fn shutdown(mut self, grace: Duration) -> usize {
        self.stop.send_replace(true);
        let cut = self.control.shutdown(grace).await;
        // Requests under way are short; whoever calls this bounds it.
        let _ = (&mut self.server).await;
        cut
    }
}

impl Drop for ControlRole {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Binds Control's listener, so that a port that is taken is noticed before anything else is done.
///
/// # Errors
///
/// The address cannot be listened on.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::listen("--listen", address, &error))
}

fn unusable(error: &dyn std::error::Error) -> Failure {
    Failure::because("Control's certificate cannot be used", error)
}

/// What Control tells on its admin address.
#[derive(Debug)]
pub struct Source {
    control: Control,
}

impl Source {
    /// Answers about this Control.
    #[must_use]
    pub const fn new(control: Control) -> Self {
        Self { control }
    }
}

impl AdminSource for Source {
    fn readiness(&self) -> Readiness {
        if self.control.is_ready() {
            Readiness::Ready
        } else {
            Readiness::NotReady("the model is being read".to_owned())
        }
    }

    fn metrics(&self, page: &mut Exposition) {
        let counters = self.control.counters();
        let gauges = [
            (
                "kakuremichi_nodes_connected",
                "Nodes with a session.",
                counters.connected,
            ),
            (
                "kakuremichi_links_open",
                "Connections of nodes, proven or not.",
                counters.open,
            ),
            (
                "kakuremichi_links_unauthenticated",
                "Connections that have proven nothing yet.",
                counters.unauthenticated,
            ),
        ];
        for (name, help, value) in gauges {
            page.single(name, help, MetricKind::Gauge, value);
        }
        let totals = [
            (
                "kakuremichi_sessions_total",
                "Sessions that nodes were let in to.",
                counters.sessions,
            ),
            (
                "kakuremichi_enrolments_total",
                "Nodes that enrolled, or were told again that they had.",
                counters.enrolments,
            ),
            (
                "kakuremichi_plans_sent_total",
                "Plans that were sent, whole or as a difference.",
                counters.plans_sent,
            ),
            (
                "kakuremichi_plans_acknowledged_total",
                "Plans that nodes acknowledged.",
                counters.plans_acknowledged,
            ),
            (
                "kakuremichi_plans_resent_total",
                "Plans that nodes could not use and got whole again.",
                counters.plans_resent,
            ),
            (
                "kakuremichi_usage_batches_total",
                "Batches of usage that were stored.",
                counters.usage_batches,
            ),
            (
                "kakuremichi_link_unknown_frames_total",
                "Frames that were skipped because their tag is not known.",
                counters.unknown_frames,
            ),
        ];
        for (name, help, value) in totals {
            page.single(name, help, MetricKind::Counter, value);
        }
        let name = "kakuremichi_link_refusals_total";
        let help =
            "Connections that Control ended or did not take, and declarations that it refused, by code.";
        page.family(name, help, MetricKind::Counter);
        for (code, count) in &counters.refusals {
            page.sample(name, &[("code", &code.to_string())], count);
        }
    }
}
