//! Visitors of a raw TCP service: how long they wait.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kakuremichi_benches::machine::{Trouble, wait_for};

/// From the end of one visit to the next.
const PAUSE: Duration = Duration::from_millis(10);
/// When a visit has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the origin answers.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How long visits took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Waits {
    /// Visits that were served.
    pub(crate) served: usize,
    /// Visits that were not.
    pub(crate) failed: usize,
    /// The middle one.
    pub(crate) p50: f64,
    /// One in a hundred is longer.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
}

impl Waits {
    fn of(mut times: Vec<f64>, failed: usize) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times.get(times.len() * share / 100).copied();
        Self {
            served: times.len(),
            failed,
            p50: at(50).unwrap_or(f64::NAN),
            p99: at(99).unwrap_or(f64::NAN),
            max: times.last().copied().unwrap_or(f64::NAN),
        }
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            served,
            failed,
            p50,
            p99,
            max,
        } = self;
        write!(f, "{p50:.2} / {p99:.2} / {max:.1} ms of {served}")?;
        if *failed > 0 {
            write!(f, ", {failed} failed")?;
        }
        Ok(())
    }
}

/// Somebody who visits again and again, on a connection of its own each time.
#[derive(Debug)]
pub(crate) struct Visitor {
    seen: Arc<Mutex<(Vec<f64>, usize)>>,
    leaving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Begins to visit a port of loopback.
    pub(crate) fn start(port: u16) -> Self {
        let seen: Arc<Mutex<(Vec<f64>, usize)>> = Arc::default();
        let leaving: Arc<AtomicBool> = Arc::default();
        let thread = {
            let (seen, leaving) = (Arc::clone(&seen), Arc::clone(&leaving));
            thread::spawn(move || {
                while !leaving.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let served = visit(port).is_ok();
                    let time = begun.elapsed().as_secs_f64() * 1e3;
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if served {
                        seen.0.push(time);
                    } else {
                        seen.1 += 1;
                    }
                    drop(seen);
                    thread::sleep(PAUSE);
                }
            })
        };
        Self {
            seen,
            leaving,
            thread: Some(thread),
        }
    }

    /// Ends the visits, and tells how they were.
    pub(crate) fn finish(mut self) -> Waits {
        self.leaving.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let (times, failed) = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Waits::of(times, failed)
    }
}

/// Visits for so long.
pub(crate) fn for_a_while(port: u16, time: Duration) -> Waits {
    let visitor = Visitor::start(port);
    thread::sleep(time);
    visitor.finish()
}

/// Has so many requests answered on one connection.
pub(crate) fn on_one_connection(port: u16, count: usize) -> io::Result<Waits> {
    let mut stream = connect(port)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        ask(&mut stream)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Waits::of(times, 0))
}

/// Waits until a visitor is served.
pub(crate) fn wait_until_served(port: u16) -> Result<(), Trouble> {
    wait_for("the service", || visit(port).is_ok())
}

fn visit(port: u16) -> io::Result<()> {
    ask(&mut connect(port)?)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: origin\r\n\r\n")?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer)?;
    if answer == ANSWER.as_bytes() {
        return Ok(());
    }
    Err(io::Error::other("another answer"))
}

/// The process behind the services; it ends with the value.
#[derive(Debug)]
pub(crate) struct Origin {
    child: Child,
    /// Its port.
    pub(crate) port: u16,
}

impl Origin {
    /// Starts one.
    pub(crate) fn start() -> Result<Self, Trouble> {
        let program = std::env::current_exe().map_err(Trouble::io("where is this program"))?;
        let mut command = Command::new(program);
        command.arg("origin").stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(Trouble::io("cannot run the origin"))?;
        let mut origin = Self { child, port: 0 };
        let mut said = String::new();
        if let Some(out) = origin.child.stdout.take() {
            let read = BufReader::new(out).read_line(&mut said);
            read.map_err(Trouble::io("the origin's output"))?;
        }
        origin.port = said.trim().parse().map_err(|_| Trouble::Unreadable {
            program: "the origin".to_owned(),
            said,
        })?;
        Ok(origin)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request that ends with an empty line, for ever: what the process behind the services does.
pub(crate) fn be_origin() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        kakuremichi_benches::machine::print(&format!("{}\n", listener.local_addr()?.port()));
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(answer(stream));
        }
    })
}

async fn answer(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.set_nodelay(true)?;
    let (mut bytes, mut length) = ([0; 512], 0);
    loop {
        let read = stream.read(&mut bytes[length..]).await?;
        if read == 0 {
            return Ok(());
        }
        length += read;
        if bytes[..length].ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER.as_bytes()).await?;
            length = 0;
        }
    }
}
