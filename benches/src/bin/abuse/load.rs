//! What the other agent's visitors do: one transfer, and requests one after the other.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port, median, wait_for},
};

/// A request and its answer, in bytes.
const REQUEST: usize = 500;
/// How long a visitor waits at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one measurement gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Of the transfer toward the visitor.
    pub(crate) gbits: f64,
    /// From a request to its answer, in microseconds.
    pub(crate) p50: f64,
}

/// The services of the agent that is in order.
pub(crate) struct Load {
    bulk: SocketAddr,
    echo: SocketAddr,
}

impl Load {
    /// Publishes a service that sends without end and one that sends back what it gets, and waits for both.
    pub(crate) fn start(deployment: &Deployment) -> Result<Self, Trouble> {
        let publish = |name: &str, serve: fn(TcpStream) -> io::Result<()>| {
            let (target, port) = (origin(serve)?, free_port()?);
            deployment.publish_tcp(name, port, target)?;
            Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let load = Self {
            bulk: publish("bulk", endless)?,
            echo: publish("echo", echo)?,
        };
        wait_for("both services", || {
            load.transfer(Duration::from_millis(50)).is_ok()
                && load.requests(Duration::from_millis(50)).is_ok()
        })?;
        Ok(load)
    }

    /// The transfer for so long, and then the requests.
    pub(crate) fn measure(&self, milliseconds: u64) -> Result<Figures, Trouble> {
        let time = Duration::from_millis(milliseconds);
        Ok(Figures {
            gbits: self.transfer(time).map_err(Trouble::io("the transfer broke"))?,
            p50: self.requests(time).map_err(Trouble::io("a request failed"))?,
        })
    }

    fn transfer(&self, time: Duration) -> io::Result<f64> {
        let mut stream = connect(self.bulk)?;
        let mut buffer = vec![0; 256 * 1024];
        // Until it is at its pace.
        stream.read_exact(&mut buffer)?;
        let (begin, mut bytes) = (Instant::now(), 0);
        while begin.elapsed() < time {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes += count,
            }
        }
        Ok(bytes as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
    }

    fn requests(&self, time: Duration) -> io::Result<f64> {
        let mut stream = connect(self.echo)?;
        let (question, mut answer) = ([7; REQUEST], [0; REQUEST]);
        let (begin, mut times) = (Instant::now(), Vec::new());
        while begin.elapsed() < time {
            let asked = Instant::now();
            stream.write_all(&question)?;
            stream.read_exact(&mut answer)?;
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        Ok(median(times))
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A target that serves each connection on a thread of its own.
fn origin(serve: fn(TcpStream) -> io::Result<()>) -> Result<u16, Trouble> {
    let bind = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok((listener.local_addr()?.port(), listener))
    };
    let (port, listener) = bind().map_err(Trouble::io("cannot listen"))?;
    thread::spawn(move || {
        for visitor in listener.incoming().flatten() {
            // It ends with the visitor.
            thread::spawn(move || serve(visitor));
        }
    });
    Ok(port)
}

fn endless(mut visitor: TcpStream) -> io::Result<()> {
    let data = vec![7; 256 * 1024];
    loop {
        visitor.write_all(&data)?;
    }
}

fn echo(mut visitor: TcpStream) -> io::Result<()> {
    visitor.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match visitor.read(&mut buffer)? {
            0 => return Ok(()),
            count => visitor.write_all(&buffer[..count])?,
        }
    }
}
