//! What lies in Control's data directory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use kakuremichi_bins_common::{DataDir, Failure};
use kakuremichi_control::{
    Control, ControlBuilder,
    backup::File,
    identity_key,
    store::{ConnectError, SqlStore},
    tls::{CertificateFiles, LocalCa},
};
use kakuremichi_core::secret::Secret;
use kakuremichi_proto::identity::CanonicalUrl;

use crate::Config;

/// Control's Ed25519 key, PKCS#8: who it is to its nodes.
const IDENTITY: &str = "identity.p8";
/// The certificate of Control's own authority.
const CA_CERTIFICATE: &str = "ca.pem";
/// The key of Control's own authority.
const CA_KEY: &str = "ca.key";
/// The database.
const DATABASE: &str = "control.db";
/// How Control served last: its public URL, whether its certificate was from its own authority, and on which
/// database. Commands that make tokens beside it read this.
const SERVING: &str = "serving";
/// The second line of [`SERVING`] when nodes have to trust Control's own authority.
const OWN_AUTHORITY: &str = "own-authority";
/// The second line otherwise.
const PUBLIC_TRUST: &str = "public-trust";
/// The third line of [`SERVING`] when the database is a server's. Its URL is a secret, which is not kept here.
const ON_SERVER: &str = "database-server";
/// The third line otherwise.
const ON_FILE: &str = "database-file";

/// What a backup holds beside the database.
const BACKED_UP: [&str; 4] = [IDENTITY, CA_CERTIFICATE, CA_KEY, SERVING];

/// Control's data directory.
#[derive(Debug)]
pub struct Files {
    dir: DataDir,
}

impl Files {
    /// Takes a directory that is open already.
    #[must_use]
    pub const fn new(dir: DataDir) -> Self {
        Self { dir }
    }

    /// The identity, made at the first call.
    ///
    /// # Errors
    /// When it cannot be read, made or written.
    pub fn identity(&self) -> Result<Secret<Vec<u8>>, Failure> {
        if let Some(key) = self.dir.read(IDENTITY)? {
            return Ok(Secret::new(key));
        }
        let key =
            identity_key().map_err(|error| Failure::because("cannot make Control's identity", &error))?;
        self.dir.write_secret(IDENTITY, key.expose())?;
        Ok(key)
    }

    /// The authority of Control's own, made at the first call.
    ///
    /// # Errors
    /// When it cannot be read, made or written.
    pub fn authority(&self) -> Result<LocalCa, Failure> {
        let damaged = |error| Failure::because(&format!("{} is damaged", self.ca_path().display()), &error);
        if let Some(ca) = self.existing_authority()? {
            return Ok(ca);
        }
        let ca = LocalCa::generate("kakuremichi Control", SystemTime::now()).map_err(damaged)?;
        // The key first: a certificate without its key would be taken for a damaged authority.
        self.dir.write_secret(CA_KEY, ca.key_pem().expose().as_bytes())?;
        self.dir
            .write_public(CA_CERTIFICATE, ca.certificate_pem().as_bytes())?;
        Ok(ca)
    }

    fn existing_authority(&self) -> Result<Option<LocalCa>, Failure> {
        let (Some(certificate), Some(key)) = (self.dir.read(CA_CERTIFICATE)?, self.dir.read(CA_KEY)?) else {
            return Ok(None);
        };
        let (certificate, key) = (String::from_utf8_lossy(&certificate), Secret::new(key));
        let key_text = Secret::new(String::from_utf8_lossy(key.expose()).into_owned());
        LocalCa::from_pem(&certificate, key_text.expose())
            .map(Some)
            .map_err(|error| Failure::because(&format!("{} is damaged", self.ca_path().display()), &error))
    }

    /// Where the authority's certificate is, for those who are to trust it.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.dir.file(CA_CERTIFICATE)
    }

    /// Control on its database, made and brought to its newest form when needed, as nodes will know it.
    ///
    /// # Errors
    /// When the identity or the database cannot be used.
    pub async fn control(
        &self,
        config: &Config,
        ca: Option<&LocalCa>,
        certificate: Option<Arc<CertificateFiles>>,
    ) -> Result<Control, Failure> {
        let (public_url, database) = (&config.public_url, config.database.as_ref());
        let store = self.store(database).await?;
        let mut builder = builder(store.clone(), public_url, &self.identity()?, ca)
            .rates(config.door.rates)
            .private_webhooks(config.private_webhooks)
            .audit_retention(config.audit_retention)
            .node_down_after(config.node_down_after);
        for host in &config.door.hosts {
            builder = builder.allow_host(host.clone());
        }
        for origin in &config.door.origins {
            builder = builder.allow_origin(origin.clone());
        }
        if let Some(mailer) = config.mail.clone() {
            builder = builder.mail(mailer);
        }
        if let Some(files) = certificate {
            builder = builder.certificate(files);
        }
        let control = build(builder)?;
        let known = store
            .identity(control.identity())
            .await
            .map_err(|error| Failure::because("the database cannot be used", &error))?;
        if known != control.identity() {
            return Err(Failure::refused(format!(
                "this database is of a Control with another identity, and its nodes would not know this one: copy \
                 {IDENTITY}, {CA_CERTIFICATE} and {CA_KEY} of an instance that runs on it to {}",
                self.dir.path().display()
            )));
        }
        let trust = if ca.is_some() { OWN_AUTHORITY } else { PUBLIC_TRUST };
        let kind = if database.is_some() { ON_SERVER } else { ON_FILE };
        let serving = format!("{public_url}\n{trust}\n{kind}\n");
        self.dir.write_secret(SERVING, serving.as_bytes())?;
        Ok(control)
    }

    /// The same without a listener, for a command that works beside a Control which runs, or ran. It makes
    /// nothing, and writes nothing but what its use cases commit.
    ///
    /// # Errors
    /// When Control never ran here, what it left cannot be used, or its database has another schema than this
    /// version's.
    pub async fn offline_control(&self, database: Option<&Secret<String>>) -> Result<Control, Failure> {
        let never = || {
            Failure::refused(
                "Control has not run in this data directory yet: start `kakuremichi-control run` first",
            )
        };
        let serving = self.dir.read(SERVING)?.ok_or_else(never)?;
        let serving = String::from_utf8_lossy(&serving).into_owned();
        let mut lines = serving.lines();
        let public_url: CanonicalUrl = lines
            .next()
            .and_then(|line| line.parse().ok())
            .ok_or_else(never)?;
        let ca = if lines.next() == Some(OWN_AUTHORITY) {
            Some(self.existing_authority()?.ok_or_else(never)?)
        } else {
            None
        };
        let identity = Secret::new(self.dir.read(IDENTITY)?.ok_or_else(never)?);
        let store = self.visit_store(database).await?;
        build(builder(store, &public_url, &identity, ca.as_ref()))
    }

    /// The database, made and brought to its newest form when needed.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn store(&self, database: Option<&Secret<String>>) -> Result<SqlStore, Failure> {
        if let Some(url) = database {
            return SqlStore::connect(url.expose())
                .await
                .map_err(cannot_use("--database"));
        }
        let path = self.dir.file(DATABASE);
        SqlStore::open(&path).await.map_err(cannot_open(&path))
    }

    /// The files that a backup holds beside the database.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn to_back_up(&self) -> Result<Vec<File>, Failure> {
        let mut files = Vec::new();
        for name in BACKED_UP {
            if let Some(contents) = self.dir.read(name)? {
                files.push(File {
                    name: name.to_owned(),
                    contents: Secret::new(contents),
                });
            }
        }
        Ok(files)
    }

    /// Puts the files of a backup where they belong. `on_server` says whether the database is a server's now.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn put_back(&self, files: &[File], on_server: bool) -> Result<(), Failure> {
        for file in files {
            let contents = file.contents.expose();
            match file.name.as_str() {
                CA_CERTIFICATE => self.dir.write_public(CA_CERTIFICATE, contents)?,
                SERVING => {
                    let text = String::from_utf8_lossy(contents);
                    let mut lines: Vec<&str> = text.lines().take(2).collect();
                    lines.push(if on_server { ON_SERVER } else { ON_FILE });
                    let text = lines.join("\n") + "\n";
                    self.dir.write_secret(SERVING, text.as_bytes())?;
                }
                // Only what is known: a name could lead elsewhere.
                name if BACKED_UP.contains(&name) => self.dir.write_secret(name, contents)?,
                name => tracing::warn!(name, "the backup holds a file that this version does not know"),
            }
        }
        Ok(())
    }

    /// The database that Control serves from, for a command beside it.
    ///
    /// # Errors
    /// When it cannot be used, or is on a server and nobody said on which.
    pub async fn visit_store(&self, database: Option<&Secret<String>>) -> Result<SqlStore, Failure> {
        if let Some(url) = database {
            return SqlStore::visit_url(url.expose())
                .await
                .map_err(cannot_use("--database"));
        }
        let serving = self.dir.read(SERVING)?.unwrap_or_default();
        if String::from_utf8_lossy(&serving).lines().nth(2) == Some(ON_SERVER) {
            return Err(Failure::refused(
                "Control's database is on a server: give its URL, by --database-file or KAKUREMICHI_DATABASE",
            ));
        }
        let path = self.dir.file(DATABASE);
        SqlStore::visit(&path).await.map_err(cannot_open(&path))
    }
}

fn builder(
    store: SqlStore,
    public_url: &CanonicalUrl,
    identity: &Secret<Vec<u8>>,
    ca: Option<&LocalCa>,
) -> ControlBuilder {
    Control::builder(store)
        .public_url(public_url.to_string())
        .identity(identity.expose())
        .ca_fingerprint(ca.map(LocalCa::fingerprint))
}

fn build(builder: ControlBuilder) -> Result<Control, Failure> {
    builder
        .build()
        .map_err(|error| Failure::because("Control cannot be built", &error))
}

fn cannot_use(setting: &'static str) -> impl Fn(ConnectError) -> Failure {
    move |error| Failure::because(setting, &error)
}

fn cannot_open(path: &Path) -> impl Fn(ConnectError) -> Failure {
    move |error| Failure::because(&format!("cannot open {}", path.display()), &error)
}
