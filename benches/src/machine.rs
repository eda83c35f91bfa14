//! Processes, ports and directories of one run; all of them end with it.

use std::{
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

mod namespace;

pub use namespace::Namespace;

/// How long something may take until it serves.
const START: Duration = Duration::from_secs(60);
/// How often it is asked whether it does.
const PAUSE: Duration = Duration::from_millis(50);
/// Clock ticks per second in `/proc`, on every Linux (proc(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// What kept a measurement from being made.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The arguments make no sense; the text says what would.
    #[error("usage: {0}")]
    Usage(&'static str),
    /// A program could not be run, or a file not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A binary that is measured was not built.
    #[error("{} is missing: build it first, as benches/README.md says", .0.display())]
    NotBuilt(PathBuf),
    /// A program of others that is measured was not installed.
    #[error("{} is missing: `cargo xtask setup --benches` installs it", .0.display())]
    NotInstalled(PathBuf),
    /// A program ended with an error.
    #[error("{program} failed: {said}")]
    Failed {
        /// Its name.
        program: String,
        /// What it printed.
        said: String,
    },
    /// Something did not begin to serve.
    #[error("{what} did not come up within {START:?}")]
    Late {
        /// What was waited for.
        what: String,
    },
    /// A program printed what cannot be read.
    #[error("{program} said: {said}")]
    Unreadable {
        /// Its name.
        program: String,
        /// What it printed.
        said: String,
    },
    /// A server refused a request.
    #[error("{request} was answered with {status}: {body}")]
    Refused {
        /// Method and path.
        request: String,
        /// The status code.
        status: u16,
        /// What came with it.
        body: String,
    },
}

impl Trouble {
    /// What the system said about what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The trouble and everything below it in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}

/// Writes to stdout; a reader who left is nobody's problem.
pub fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A directory that goes away with the value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one below the system's directory for such things.
    ///
    /// # Errors
    ///
    /// [`Trouble::Io`].
    pub fn new(name: &str) -> Result<Self, Trouble> {
        let name = format!("kakuremichi-bench-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).map_err(Trouble::io(path.display().to_string()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and says where it is.
    ///
    /// # Errors
    ///
    /// [`Trouble::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Trouble> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(Trouble::io(path.display().to_string()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is ended with the value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program with its output thrown away, or in `log`.
    ///
    /// # Errors
    ///
    /// [`Trouble::Io`]: it cannot be run, or its log not be written.
    pub fn start(command: &mut Command, log: Option<&Path>) -> Result<Self, Trouble> {
        let trouble = || Trouble::io(format!("cannot run {}", name(command)));
        let (out, err) = match log {
            Some(path) => {
                let file = fs::File::create(path).map_err(trouble())?;
                (file.try_clone().map_err(trouble())?.into(), file.into())
            }
            None => (Stdio::null(), Stdio::null()),
        };
        let trouble = trouble();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        child.map(Self).map_err(trouble)
    }

    /// The process's identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process and all that it started, each by its identifier.
    #[must_use]
    pub fn tree(&self) -> Vec<u32> {
        let mut found = vec![self.0.id()];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        found
    }

    /// Ends it, and all that it started, at once.
    pub fn stop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // What it started would outlive it: nginx's workers do.
        let others = self.tree().into_iter().skip(1).map(|pid| pid.to_string());
        let _ = self.0.kill();
        let mut kill = Command::new("kill");
        let _ = output(kill.arg("-KILL").args(others));
        let _ = self.0.wait();
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// [`Trouble::Failed`] unless it ends well.
    pub fn finish(mut self, program: &str) -> Result<(), Trouble> {
        let status = self.0.wait().map_err(Trouble::io(program))?;
        if status.success() {
            return Ok(());
        }
        Err(Trouble::Failed {
            program: program.to_owned(),
            said: status.to_string(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Seconds of processor time of a process, user and system; 0 when it is gone.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; what follows it does not. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / TICKS
}

/// Bytes of resident memory of a process; 0 when it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// Runs a program to its end and gives back what it printed.
///
/// # Errors
///
/// [`Trouble::Io`] when it cannot be run, [`Trouble::Failed`] when it ends with an error.
pub fn output(command: &mut Command) -> Result<String, Trouble> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Trouble::io(format!("cannot run {}", name(command))))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(Trouble::Failed {
        program: name(command),
        said: String::from_utf8_lossy(&output.stderr).into_owned() + &printed,
    })
}

/// A port on loopback that was free a moment ago.
///
/// # Errors
///
/// [`Trouble::Io`] when the system has none.
pub fn free_port() -> Result<u16, Trouble> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    bind()
        .map(|address| address.port())
        .map_err(Trouble::io("no free port"))
}

/// Waits until something accepts connections at a port of loopback.
///
/// # Errors
///
/// [`Trouble::Late`].
pub fn wait_for_port(port: u16) -> Result<(), Trouble> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_for(&format!("a listener at port {port}"), || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    })
}

/// Asks again and again until the answer is yes.
///
/// # Errors
///
/// [`Trouble::Late`].
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> Result<(), Trouble> {
    let end = Instant::now() + START;
    while !ready() {
        if Instant::now() > end {
            return Err(Trouble::Late {
                what: what.to_owned(),
            });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A binary that was built beside this one.
///
/// # Errors
///
/// [`Trouble::NotBuilt`].
pub fn sibling(name: &str) -> Result<PathBuf, Trouble> {
    let this = std::env::current_exe().map_err(Trouble::io("where is this program"))?;
    let path = this.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Trouble::NotBuilt(path))
}

/// A program that others wrote, which `cargo xtask setup --benches` installed beside the build.
///
/// # Errors
///
/// [`Trouble::NotInstalled`].
pub fn peer(name: &str) -> Result<PathBuf, Trouble> {
    let this = std::env::current_exe().map_err(Trouble::io("where is this program"))?;
    let target = this.ancestors().nth(2).unwrap_or(&this);
    let path = target.join("peers/bin").join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Trouble::NotInstalled(path))
}

/// The middle one of some figures, the upper one of two; not a number when there are none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
