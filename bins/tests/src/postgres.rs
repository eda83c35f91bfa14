//! A PostgreSQL server of the tests' own.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::ca::Issued;
use crate::component;
use crate::wait;

/// The user that the server runs as when the tests run as root, which it refuses to be run as.
const USER: &str = "postgres";
/// The usual port, which is a part of the name of the socket.
const PORT: u16 = 5432;
/// The name of the user inside the server, who may do everything and has no password.
const OWNER: &str = "kakuremichi";

/// Runs the server beside a pipe that the test holds: when the pipe closes, because the test drops it or because the
/// test process ends in whatever way, the server is told to end at once.
const KEEPER: &str = r#"
"$@" & server=$!
read -r _ignored
kill -QUIT "$server" 2>/dev/null
wait "$server"
[ -z "$REMOVE" ] || rm -rf "$REMOVE"
"#;

/// A server that listens on a socket in a directory of its own. It ends when dropped, and with the test process.
#[derive(Debug)]
pub struct Postgres {
    directory: PathBuf,
    owner: Option<(u32, u32)>,
    keeper: Option<Child>,
    databases: AtomicU32,
    port: u16,
    /// Whether it listens on loopback, too, and there only with TLS.
    tls: bool,
    /// Nobody drops it, so its keeper removes the directory.
    shared: bool,
    /// Removed when the server is dropped.
    _directory: TempDir,
}

impl Postgres {
    /// The server that all tests of a binary share, each with a database of its own. `None` when the test was asked
    /// to do without one.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        component::have(&[component::POSTGRESQL]).then(|| SHARED.get_or_init(|| Self::make(true, None)))
    }

    /// Starts a server of one's own. It writes as durably as one in production.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn start() -> Self {
        Self::make(false, None)
    }

    /// The same with a port on loopback besides, where it speaks TLS with this certificate; see
    /// [`tcp_url`](Self::tcp_url).
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn start_with_tls(certificate: &Issued) -> Self {
        Self::make(false, Some(certificate))
    }

    fn make(shared: bool, certificate: Option<&Issued>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("kakuremichi-postgres-")
            .tempdir()
            .unwrap();
        let owner = geteuid().is_root().then(|| user(USER));
        if let Some((uid, gid)) = owner {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut server = Self {
            directory: directory.path().to_owned(),
            owner,
            keeper: None,
            databases: AtomicU32::new(0),
            port: certificate.map_or(PORT, |_| free_port()),
            tls: certificate.is_some(),
            shared,
            _directory: directory,
        };
        let mut initdb = server.command(&program("initdb"));
        initdb.arg("--pgdata").arg(server.data());
        initdb.args(["--username", OWNER, "--auth", "trust", "--encoding", "UTF8"]);
        initdb.args(["--locale", "C", "--no-sync"]);
        let made = initdb.output().unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        if let Some(certificate) = certificate {
            server.secret("server.crt", &certificate.certificate_pem);
            server.secret("server.key", &certificate.key_pem);
        }
        server.start_again();
        server
    }

    /// A file of the server's own.
    fn secret(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.owner {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Starts it again after [`kill`](Self::kill), and waits until it answers.
    ///
    /// # Panics
    ///
    /// It does not come up.
    pub fn start_again(&mut self) {
        // What was killed may still hold its memory: then the new one ends at once, and is tried again.
        wait::until("the PostgreSQL server", || {
            let running = match &mut self.keeper {
                Some(keeper) => keeper.try_wait().unwrap().is_none(),
                None => false,
            };
            if !running || self.process().is_none() {
                self.stop();
                self.keeper = Some(self.keep());
                wait::until("the PostgreSQL server's process", || {
                    self.process().or_else(|| self.ended())
                });
            }
            self.try_sql("postgres", "SELECT 1").ok()
        });
    }

    /// Kills its first process, which takes all others with it, as a loss of power would.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn kill(&mut self) {
        let process = self.process().expect("the server runs");
        kill_process(process, Signal::KILL).unwrap();
        self.stop();
    }

    /// Makes an empty database; returns its URL.
    ///
    /// # Panics
    ///
    /// The server does not do so.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let directory = self.directory.display();
        let port = self.port;
        format!("postgres://{OWNER}@localhost:{port}/{database}?host={directory}")
    }

    /// The URL of a database by its port on loopback, under a name of it and with further options of libpq.
    #[must_use]
    pub fn tcp_url(&self, database: &str, host: &str, options: &str) -> String {
        format!("postgres://{OWNER}@{host}:{}/{database}?{options}", self.port)
    }

    /// Runs statements in a database that [`url`](Self::url) or [`database`](Self::database) named, one row of the
    /// result a line.
    ///
    /// # Panics
    ///
    /// One of them fails.
    #[track_caller]
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        // Of a URL, what is between the last slash of its path and its options.
        let name = database.split('?').next().unwrap_or(database);
        let name = name.rsplit('/').next().unwrap_or(name);
        let mut psql = self.command(&program("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--username", OWNER, "--dbname", name]);
        psql.arg("--host").arg(&self.directory);
        psql.args(["--port", &self.port.to_string()]);
        let mut psql = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A server that is not there yet is noticed before anything is read.
        let _ = psql.stdin.take().unwrap().write_all(statements.as_bytes());
        let said = psql.wait_with_output().unwrap();
        if said.status.success() {
            Ok(String::from_utf8(said.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&said.stderr).into_owned())
        }
    }

    fn keep(&self) -> Child {
        let mut keeper = self.command(Path::new("/bin/sh"));
        keeper.args(["-c", KEEPER, "postgres"]).arg(program("postgres"));
        keeper.arg("-D").arg(self.data());
        keeper.arg("-k").arg(&self.directory);
        keeper.arg("-p").arg(self.port.to_string());
        if self.tls {
            keeper.args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"]);
        } else {
            keeper.args(["-c", "listen_addresses="]);
        }
        let remove = if self.shared {
            self.directory.as_path()
        } else {
            Path::new("")
        };
        keeper.env("REMOVE", remove);
        let log = fs::File::create(self.directory.join("log")).unwrap();
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Its first process, as it says itself, if that runs.
    fn process(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let process = Pid::from_raw(file.lines().next()?.parse().ok()?)?;
        rustix::process::test_kill_process(process).ok()?;
        Some(process)
    }

    /// Something, when the keeper has ended: then there is no process to wait for.
    fn ended(&self) -> Option<Pid> {
        let keeper = self.keeper.as_ref()?;
        let state = fs::read_to_string(format!("/proc/{}/stat", keeper.id())).ok()?;
        state.contains(") Z ").then(|| Pid::from_child(keeper))
    }

    fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A command as the user that the server runs as.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env("LC_ALL", "C");
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

#[track_caller]
fn program(name: &str) -> PathBuf {
    component::path(name)
        .unwrap_or_else(|| panic!("postgresql is missing ({name}): `cargo xtask setup` installs it"))
}

/// A port of loopback that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The user and group ids of a user.
#[track_caller]
fn user(name: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(name));
    let line =
        line.unwrap_or_else(|| panic!("there is no user {name}: `cargo xtask setup` installs postgresql"));
    let id = |field: usize| line.split(':').nth(field).unwrap().parse().unwrap();
    (id(2), id(3))
}
