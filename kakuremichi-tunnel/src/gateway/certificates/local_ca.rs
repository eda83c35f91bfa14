//! A certificate authority of the gateway's own, for set-ups without certificates.

#![expect(clippy::disallowed_methods, reason = "certificates are dated by the clock")]

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use data_encoding::HEXLOWER;
use kakuremichi_core::name::{HostPattern, Hostname};
use kakuremichi_proto::report::CertificateStatus;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use ring::digest::{SHA256, digest};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{CertificateSource, validity::status_of};
use crate::state::{CA_KEY, StateDir, StateError};

const CERTIFICATE: &str = "ca.pem";

const DAY: Duration = Duration::from_secs(86_400);
/// How long the authority is valid.
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// How long a leaf is valid.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// A leaf is made anew when it has less than this left.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Signs one certificate for each name that is served, when it is first asked for.
///
/// The key is made on the node and stays in its state directory (`ca.key`, 0600); the certificate
/// (`ca.pem`, readable) is what visitors' browsers have to be told to trust.
pub struct LocalCa {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<Leaves>,
    bound: usize,
}

#[derive(Debug, Default)]
struct Leaves {
    known: BTreeMap<String, Leaf>,
    order: VecDeque<String>,
}

#[derive(Debug)]
struct Leaf {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalCaError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// `ca.pem` or `ca.key` is damaged, or they do not belong together. They are never replaced by
    /// themselves: browsers trust the one that is there.
    #[error("`ca.pem` and `ca.key` in the state directory are damaged or do not belong together")]
    Damaged,
    /// No key could be made.
    #[error("cannot make the certificate authority")]
    Make(#[source] rcgen::Error),
}

impl LocalCa {
    /// Opens the authority in a state directory; makes it when there is none.
    ///
    /// # Errors
    /// When the directory cannot be used, or what is in it is damaged.
    pub fn open(state: &StateDir, bound: usize) -> Result<Self, LocalCaError> {
        let stored = (state.read_own(CERTIFICATE)?, state.read_own(CA_KEY)?);
        let (pem, key) = match stored {
            (Some(pem), Some(key)) => (
                text(pem)?,
                KeyPair::from_pem(&text(key)?).map_err(|_| LocalCaError::Damaged)?,
            ),
            // A key without a certificate: the start was cut short before anybody saw either.
            (None, _) => {
                let key = KeyPair::generate().map_err(LocalCaError::Make)?;
                let certificate = params(&key).self_signed(&key).map_err(LocalCaError::Make)?;
                state.write_own(CA_KEY, key.serialize_pem().as_bytes())?;
                state.write_public(CERTIFICATE, certificate.pem().as_bytes())?;
                (certificate.pem(), key)
            }
            (Some(_), None) => return Err(LocalCaError::Damaged),
        };
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| LocalCaError::Damaged)?;
        // The subject is derived from the key, so this also finds a certificate of another key.
        let name = common_name(&key);
        if !certificate
            .windows(name.len())
            .any(|window| window == name.as_bytes())
        {
            return Err(LocalCaError::Damaged);
        }
        Ok(Self {
            issuer: Issuer::new(params(&key), key),
            pem,
            certificate,
            leaves: Mutex::default(),
            bound: bound.max(1),
        })
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn leaf(&self, subject: &str, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        // Nothing that is done under the lock panics half way.
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.known.get(subject).filter(|leaf| now < leaf.renew_at) {
            return Some(Arc::clone(&leaf.key));
        }
        let key = match self.sign(subject, now) {
            Ok(key) => Arc::new(key),
            Err(error) => {
                tracing::error!(name = subject, %error, "cannot make a certificate");
                return None;
            }
        };
        let leaf = Leaf {
            key: Arc::clone(&key),
            renew_at: now + LEAF_LIFE - RENEW_BEFORE,
        };
        if leaves.known.insert(subject.to_owned(), leaf).is_none() {
            leaves.order.push_back(subject.to_owned());
            if leaves.order.len() > self.bound
                && let Some(oldest) = leaves.order.pop_front()
            {
                leaves.known.remove(&oldest);
            }
        }
        Some(key)
    }

    fn sign(&self, subject: &str, now: SystemTime) -> Result<CertifiedKey, SignError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([subject.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (now - DAY).into();
        params.not_after = (now + LEAF_LIFE).into();
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::from_der(
            chain,
            key,
            &rustls::crypto::ring::default_provider(),
        )?)
    }
}

impl CertificateSource for LocalCa {
    fn certificate(&self, name: &Hostname, pattern: &HostPattern) -> Option<Arc<CertifiedKey>> {
        let now = SystemTime::now();
        match pattern {
            // Verifiers do not take a wildcard right below a top-level name.
            HostPattern::Wildcard(base) if base.as_str().contains('.') => {
                self.leaf(&pattern.to_string(), now)
            }
            HostPattern::Wildcard(_) | HostPattern::Exact(_) => self.leaf(name.as_str(), now),
        }
    }

    /// The authority: its leaves are made anew before they end.
    fn known(&self) -> Vec<CertificateStatus> {
        status_of(&self.certificate).into_iter().collect()
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Use(#[from] rustls::Error),
}

fn text(bytes: Vec<u8>) -> Result<String, LocalCaError> {
    String::from_utf8(bytes).map_err(|_| LocalCaError::Damaged)
}

/// Names the authority by its key, so that two of them are told apart in a list of trusted ones.
fn common_name(key: &KeyPair) -> String {
    let fingerprint = digest(&SHA256, key.der_bytes());
    format!(
        "kakuremichi gateway {}",
        HEXLOWER.encode(&fingerprint.as_ref()[..6])
    )
}

fn params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name(key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + CA_LIFE).into();
    params
}

#[cfg(test)]
mod tests {
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime},
    };

    use super::*;

    fn ca(bound: usize) -> LocalCa {
        LocalCa::open(&StateDir::memory(), bound).unwrap()
    }

    fn verifies(ca: &LocalCa, key: &CertifiedKey, name: &str, at: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        verifier
            .verify_server_cert(
                &key.cert[0],
                &key.cert[1..],
                &ServerName::try_from(name).unwrap(),
                &[],
                at,
            )
            .is_ok()
    }

    #[test]
    fn leaves_verify_for_their_names_and_are_renewed() {
        let ca = ca(8);
        let now = SystemTime::now();
        let leaf = ca.leaf("a.example.net", now).unwrap();
        assert!(verifies(&ca, &leaf, "a.example.net", now));
        assert!(!verifies(&ca, &leaf, "b.example.net", now));
        assert!(Arc::ptr_eq(
            &leaf,
            &ca.leaf("a.example.net", now + DAY * 59).unwrap()
        ));
        let later = now + DAY * 61;
        let renewed = ca.leaf("a.example.net", later).unwrap();
        assert!(!Arc::ptr_eq(&leaf, &renewed));
        assert!(verifies(&ca, &renewed, "a.example.net", now + DAY * 120));
    }

    #[test]
    fn one_leaf_serves_a_wildcard() {
        let ca = ca(8);
        let pattern: HostPattern = "*.example.net".parse().unwrap();
        let leaf = |name: &str| ca.certificate(&name.parse().unwrap(), &pattern).unwrap();
        assert!(Arc::ptr_eq(&leaf("a.example.net"), &leaf("b.example.net")));
        assert!(verifies(
            &ca,
            &leaf("a.example.net"),
            "c.example.net",
            SystemTime::now()
        ));
        let local: HostPattern = "*.localhost".parse().unwrap();
        let leaf = ca
            .certificate(&"demo.localhost".parse().unwrap(), &local)
            .unwrap();
        assert!(verifies(&ca, &leaf, "demo.localhost", SystemTime::now()));
    }

    #[test]
    fn the_cache_is_bounded() {
        let ca = ca(2);
        let now = SystemTime::now();
        for name in ["a.example", "b.example", "c.example", "a.example"] {
            ca.leaf(name, now).unwrap();
        }
        let leaves = ca.leaves.lock().unwrap();
        assert_eq!((leaves.known.len(), leaves.order.len()), (2, 2));
    }

    #[test]
    fn it_is_the_same_after_a_restart_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let state = StateDir::open(&path).unwrap();
        let first = LocalCa::open(&state, 8).unwrap();
        let second = LocalCa::open(&state, 8).unwrap();
        assert_eq!(first.pem(), second.pem());
        let leaf = second.leaf("a.example.net", SystemTime::now()).unwrap();
        assert!(verifies(&first, &leaf, "a.example.net", SystemTime::now()));
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(CA_KEY), mode(CERTIFICATE)), (0o600, 0o644));
        let other = KeyPair::generate().unwrap();
        std::fs::write(path.join(CA_KEY), other.serialize_pem()).unwrap();
        assert!(matches!(LocalCa::open(&state, 8), Err(LocalCaError::Damaged)));
        std::fs::remove_file(path.join(CA_KEY)).unwrap();
        assert!(matches!(LocalCa::open(&state, 8), Err(LocalCaError::Damaged)));
    }
}
