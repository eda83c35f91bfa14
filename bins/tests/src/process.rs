//! Binaries of the product, or any other, as child processes.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::binary;
use crate::net::{Host, Namespace};
use crate::wait;

/// Lines of output that are kept; later ones are dropped.
const LINES_MAX: usize = 200_000;
/// The last lines that are shown when a test fails.
const LINES_SHOWN: usize = 60;

/// How a process is started; it can be started again.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    namespace: Option<Namespace>,
}

impl Program {
    /// A binary of the product, such as `kakuremichi-gateway`.
    ///
    /// # Panics
    ///
    /// It cannot be built.
    #[must_use]
    pub fn ours(name: &str) -> Self {
        Self::other(binary(name))
    }

    /// Any program.
    #[must_use]
    pub fn other(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            namespace: None,
        }
    }

    /// Where it runs; without this, where the test runs.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.namespace = Some(host.namespace().clone());
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I>(mut self, arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts it. `KAKUREMICHI_*` variables of the test itself do not reach it.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    #[must_use]
    pub fn start(&self) -> Process {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.path),
            None => Command::new(&self.path),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("KAKUREMICHI_")) {
                command.env_remove(name);
            }
        }
        command.args(&self.arguments).envs(self.variables.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = [
            child.stdout.take().map(|pipe| read(pipe, Stream::Out, &output)),
            child.stderr.take().map(|pipe| read(pipe, Stream::Err, &output)),
        ];
        let readers = readers.into_iter().flatten().collect();
        Process {
            program: self.clone(),
            child,
            output,
            readers,
            status: None,
        }
    }

    /// Runs it to its end: its status, its output and its errors.
    ///
    /// # Panics
    ///
    /// It cannot be started, or does not end within [`wait::PATIENCE`].
    #[must_use]
    pub fn finish(&self) -> Finished {
        let mut process = self.start();
        let status = process.ended();
        Finished {
            status,
            out: process.stdout(),
            err: process.stderr(),
        }
    }
}

/// What a process said that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

type Output = Arc<Mutex<Vec<(Stream, String)>>>;

/// A running process. Dropping it kills it; when the test failed, its last lines are shown.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    output: Output,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it was started.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// Everything on its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text(Stream::Out)
    }

    /// Everything on its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.text(Stream::Err)
    }

    /// Waits for a line, on either stream, that contains `part`.
    ///
    /// # Panics
    ///
    /// It ends without one, or [`wait::PATIENCE`] does.
    #[track_caller]
    pub fn line_with(&mut self, part: &str) -> String {
        let what = format!("a line with {part:?}");
        wait::until(&what, || {
            // Looked at first, so that what it said before it ended is seen below.
            let ended = self.try_ended();
            let lines = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            let found = lines
                .iter()
                .find(|(_, line)| line.contains(part))
                .map(|(_, line)| line.clone());
            assert!(
                found.is_some() || ended.is_none(),
                "it ended ({ended:?}) without {what}"
            );
            found
        })
    }

    /// Waits until `/readyz` of an admin address on its host's loopback answers 200.
    ///
    /// # Panics
    ///
    /// It ends, or [`wait::PATIENCE`] does.
    #[track_caller]
    pub fn ready(&mut self, admin_port: u16) {
        let mut last = String::new();
        wait::until("/readyz", || {
            let ended = self.try_ended();
            assert!(
                ended.is_none(),
                "it ended ({ended:?}) before it was ready; it said last: {last}"
            );
            last = self
                .admin(admin_port, "/readyz")
                .unwrap_or_else(|error| error.to_string());
            last.starts_with("HTTP/1.1 200 ").then_some(())
        });
    }

    /// A page of an admin address on its host's loopback, with its head.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub fn admin(&self, port: u16, path: &str) -> std::io::Result<String> {
        let get = || {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match &self.program.namespace {
            Some(namespace) => namespace.run(get),
            None => get(),
        }
    }

    /// Bytes of it that are in memory.
    ///
    /// # Panics
    ///
    /// It has ended.
    #[must_use]
    #[track_caller]
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most bytes of it that were in memory at once.
    ///
    /// # Panics
    ///
    /// It has ended.
    #[must_use]
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Makes [`Self::peak_memory`] count from now on only.
    ///
    /// # Panics
    ///
    /// It has ended.
    #[track_caller]
    pub fn forget_peak(&self) {
        // proc(5): 5 resets the high water mark of resident memory to what is resident now.
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// It does not end within [`wait::PATIENCE`].
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Sends it a signal, if it has not ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_ended().is_none() {
            let id = Pid::from_child(&self.child);
            let _ = kill_process(id, signal);
        }
    }

    /// Ends it at once, without a chance to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        if let Ok(status) = self.child.wait() {
            self.status = Some(status);
        }
        self.drain();
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    ///
    /// It does not within [`wait::PATIENCE`].
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let status = wait::until("the end of a process", || self.try_ended());
        self.drain();
        status
    }

    /// How it ended, if it has.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for the last of its output.
    fn drain(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    fn text(&self, stream: Stream) -> String {
        let lines = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter(|(from, _)| *from == stream)
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }

    #[track_caller]
    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("it has ended");
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.output.lock().unwrap_or_else(PoisonError::into_inner);
            let skipped = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!(
                "--- {} ({:?}), after {skipped} lines:",
                self.program.path.display(),
                self.status
            );
            for (_, line) in &lines[skipped..] {
                eprintln!("{line}");
            }
        }
    }
}

fn read(pipe: impl Read + Send + 'static, stream: Stream, output: &Output) -> JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut lines = output.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < LINES_MAX {
                lines.push((stream, line));
            }
        }
    })
}
