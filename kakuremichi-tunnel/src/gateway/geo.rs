//! Where visitors are: the country and the autonomous system of an address, from databases in MaxMind's format that
//! the operator supplies.
//!
//! A database is read into memory as a whole and checked, and again whenever its file changes. One that cannot be
//! used never takes the place of one that could. Without any, nothing is known of an address, and rules that look at
//! it decide as if it were the worst (LESSONS, advisory 5).

use std::{
    fs,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use kakuremichi_core::policy::CountryCode;
use maxminddb::{MaxMindDbError, Reader, WithinOptions, path};

use super::stamp::{Stamp, stamp};

/// The largest database, in bytes. It is kept in memory.
const MAX_BYTES: u64 = 512 * 1024 * 1024;
/// How often it is looked whether a file changed.
const LOOK: Duration = Duration::from_secs(2);
/// Networks that are looked at to find out whether a database has what is wanted of it.
const SAMPLE: usize = 4096;

/// Which databases a gateway uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct GeoFiles {
    pub(crate) country: Option<PathBuf>,
    pub(crate) asn: Option<PathBuf>,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GeoError {
    /// There is no file, or it cannot be read.
    #[error("the file cannot be read")]
    File(#[from] io::Error),
    /// The file is too large.
    #[error("the file has more than {MAX_BYTES} bytes")]
    Size,
    /// The file is no database, or a damaged one.
    #[error("the file is no usable database in MaxMind's format")]
    Damaged(#[from] MaxMindDbError),
    /// The database is of something else.
    #[error("the database has no {0}: is it another one?")]
    Other(&'static str),
}

/// What is known of where addresses are. Clones share the databases; with the last one the files are watched no
/// more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Geo(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    country: Option<Arc<Source>>,
    asn: Option<Arc<Source>>,
    /// The thread ends when this is dropped.
    _stop: mpsc::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Country,
    Asn,
}

/// A database, as it was when it could be used last.
#[derive(Debug)]
struct Source {
    kind: Kind,
    path: PathBuf,
    newest: ArcSwapOption<Reader<Vec<u8>>>,
}

impl Geo {
    /// Reads the databases, and watches their files from now on. One that cannot be used is reported and looked at
    /// again when it changes.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(crate) fn open(files: GeoFiles) -> io::Result<Self> {
        let source = |kind, path: Option<PathBuf>| path.map(|path| Arc::new(Source::new(kind, path)));
        let country = source(Kind::Country, files.country);
        let asn = source(Kind::Asn, files.asn);
        let mut looks: Vec<_> = country.iter().chain(&asn).map(Look::first).collect();
        if looks.is_empty() {
            return Ok(Self(None));
        }
        let (stop, stopped) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("kakuremichi-geo".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    looks.iter_mut().for_each(Look::again);
                }
            })?;
        Ok(Self(Some(Arc::new(Watched {
            country,
            asn,
            _stop: stop,
        }))))
    }

    /// The country of an address, if a database has it.
    pub(crate) fn country(&self, address: IpAddr) -> Option<CountryCode> {
        let reader = self.0.as_ref()?.country.as_ref()?.newest.load();
        country_in(reader.as_ref()?, address)
    }

    /// The number of the autonomous system of an address, if a database has it.
    pub(crate) fn asn(&self, address: IpAddr) -> Option<u32> {
        let reader = self.0.as_ref()?.asn.as_ref()?.newest.load();
        asn_in(reader.as_ref()?, address)
    }
}

/// A file, and how it was when it was looked at last.
struct Look {
    source: Arc<Source>,
    seen: Stamp,
}

impl Look {
    fn first(source: &Arc<Source>) -> Self {
        let look = Self {
            source: Arc::clone(source),
            seen: stamp(&source.path),
        };
        look.read();
        look
    }

    fn again(&mut self) {
        let now = stamp(&self.source.path);
        if now != self.seen {
            self.seen = now;
            self.read();
        }
    }

    fn read(&self) {
        let Source { kind, path, newest } = &*self.source;
        let (database, file) = (kind.name(), path.display());
        match read(*kind, path) {
            Ok(reader) => {
                tracing::info!(database, %file, built = reader.metadata().build_epoch, "a database was read");
                newest.store(Some(Arc::new(reader)));
            }
            Err(error) => {
                let in_use = newest.load().is_some();
                tracing::error!(database, %file, in_use, error = &error as &dyn std::error::Error,
                    "a database cannot be used: the one before stays in use; without one, rules that look at it \
                     let nobody pass");
            }
        }
    }
}

impl Source {
    const fn new(kind: Kind, path: PathBuf) -> Self {
        Self {
            kind,
            path,
            newest: ArcSwapOption::const_empty(),
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Country => "countries",
            Self::Asn => "autonomous systems",
        }
    }
}

fn read(kind: Kind, path: &Path) -> Result<Reader<Vec<u8>>, GeoError> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(GeoError::Size);
    }
    let reader = Reader::from_source(bytes)?;
    reader.verify()?;
    let mut sample = reader.networks(WithinOptions::default())?.take(SAMPLE);
    let has = sample.any(|found| {
        let Ok(found) = found else { return false };
        match kind {
            Kind::Country => matches!(
                found.decode_path::<&str>(&path!["country", "iso_code"]),
                Ok(Some(_))
            ),
            Kind::Asn => matches!(
                found.decode_path::<u32>(&path!["autonomous_system_number"]),
                Ok(Some(_))
            ),
        }
    });
    if has {
        Ok(reader)
    } else {
        Err(GeoError::Other(kind.name()))
    }
}

fn country_in(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<CountryCode> {
    let found = reader.lookup(address).ok()?;
    let code = found.decode_path::<&str>(&path!["country", "iso_code"]);
    code.ok()??.parse().ok()
}

fn asn_in(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<u32> {
    let found = reader.lookup(address).ok()?;
    found.decode_path(&path!["autonomous_system_number"]).ok()?
}

#[cfg(test)]
mod tests {
    use kakuremichi_tests::geo::{asn, country, database};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_the_country_and_the_system_of_its_network() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: Vec<u8>| {
            let path = directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            Some(path)
        };
        let countries = [
            ("203.0.113.0/24", country("JP")),
            ("2001:db8::/32", country("DE")),
        ];
        let systems = [("203.0.113.128/25", asn(64_500))];
        let geo = Geo::open(GeoFiles {
            country: file("country", database("GeoLite2-Country", &countries)),
            asn: file("asn", database("GeoLite2-ASN", &systems)),
        })
        .unwrap();
        let known = |text: &str| {
            let code = geo.country(address(text)).map(|code| code.as_str().to_owned());
            (code, geo.asn(address(text)))
        };
        assert_eq!(known("203.0.113.7"), (Some("JP".to_owned()), None));
        assert_eq!(known("203.0.113.200"), (Some("JP".to_owned()), Some(64_500)));
        assert_eq!(known("2001:db8::7"), (Some("DE".to_owned()), None));
        assert_eq!(known("192.0.2.1"), (None, None), "in no database");
    }

    /// LESSONS, advisory 5: a missing GeoIP database is a denial with a typed reason.
    #[test]
    fn advisory_5_what_cannot_be_used_says_why_and_nothing_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("country");
        let geo = Geo::open(GeoFiles {
            country: Some(path.clone()),
            asn: None,
        })
        .unwrap();
        assert_eq!(geo.country(address("203.0.113.7")), None);
        assert!(matches!(read(Kind::Country, &path), Err(GeoError::File(_))));
        fs::write(&path, "no database").unwrap();
        assert!(matches!(read(Kind::Country, &path), Err(GeoError::Damaged(_))));
        let good = database("GeoLite2-Country", &[("203.0.113.0/24", country("JP"))]);
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(matches!(read(Kind::Country, &path), Err(GeoError::Damaged(_))));
        fs::write(&path, &good).unwrap();
        assert!(read(Kind::Country, &path).is_ok());
        assert!(matches!(read(Kind::Asn, &path), Err(GeoError::Other(_))));
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_a_damaged_one_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("country");
        let source = Arc::new(Source::new(Kind::Country, path.clone()));
        let mut look = Look::first(&source);
        let mut known_after = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            look.again();
            let reader = source.newest.load();
            let code = country_in(reader.as_ref()?, address("203.0.113.7"))?;
            Some(code.as_str().to_owned())
        };
        let of = |code| database("GeoLite2-Country", &[("203.0.113.0/24", country(code))]);
        assert_eq!(known_after(b"garbage"), None);
        assert_eq!(known_after(&of("JP")).as_deref(), Some("JP"));
        assert_eq!(known_after(b"garbage again").as_deref(), Some("JP"));
        let mut longer = vec![("203.0.113.0/24", country("DE"))];
        longer.push(("192.0.2.0/24", country("FR")));
        assert_eq!(
            known_after(&database("GeoLite2-Country", &longer)).as_deref(),
            Some("DE")
        );
    }
}
