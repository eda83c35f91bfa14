//! How long it takes from the REST call that adds a raw TCP service until a visitor is served through
//! it: Control stores it, computes the plans, and sends them; the agent and the gateway apply them, and
//! the gateway opens the port.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use kakuremichi_benches::{
    deployment::Deployment,
    machine::{Trouble, free_port, median, print},
};

/// How many services are added, one after the other, unless told otherwise.
const SERVICES: usize = 20;
/// How long the visitor waits between two attempts.
const PAUSE: Duration = Duration::from_millis(2);
/// When a service is given up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            print(&format!("time-to-serve: {}\n", trouble.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Trouble> {
    let services = match std::env::args().nth(1) {
        None => SERVICES,
        Some(text) => text
            .parse()
            .map_err(|_| Trouble::Usage("time-to-serve [SERVICES]"))?,
    };
    let origin = origin()?;
    let deployment = Deployment::start("time-to-serve", &[])?;
    let mut times = Vec::new();
    for number in 0..services {
        let port = free_port()?;
        let start = Instant::now();
        deployment.publish_tcp(&format!("service-{number}"), port, origin)?;
        let accepted = start.elapsed();
        while !is_served(port) {
            if start.elapsed() > PATIENCE {
                return Err(Trouble::Late {
                    what: format!("service {number}"),
                });
            }
            thread::sleep(PAUSE);
        }
        times.push((accepted, start.elapsed()));
    }
    let column = |figure: fn(&(Duration, Duration)) -> Duration| {
        let values: Vec<f64> = times
            .iter()
            .map(|pair| figure(pair).as_secs_f64() * 1e3)
            .collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        format!("median {:.1} ms, max {max:.1} ms", median(values))
    };
    Ok(format!(
        "{services} services, one after the other\n\
         REST call answered: {}\n\
         first visitor served: {}\n",
        column(|(accepted, _)| *accepted),
        column(|(_, served)| *served),
    ))
}

/// A target that says one byte to whoever connects.
fn origin() -> Result<u16, Trouble> {
    let trouble = Trouble::io("cannot listen");
    let bind = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok((listener.local_addr()?.port(), listener))
    };
    let (port, listener) = bind().map_err(trouble)?;
    thread::spawn(move || {
        for mut visitor in listener.incoming().flatten() {
            let _ = visitor.write_all(&[1]);
        }
    });
    Ok(port)
}

/// Whether a visitor of the port hears the target.
fn is_served(port: u16) -> bool {
    let visit = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0])
    };
    visit().is_ok()
}
