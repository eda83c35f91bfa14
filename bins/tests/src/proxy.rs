//! A proxy as companies have one: HTTP `CONNECT` and SOCKS5 on one port, with a login.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use data_encoding::BASE64;

use crate::net::Host;

/// The login that it asks for.
pub const LOGIN: (&str, &str) = ("ann", "p@ss");

/// A proxy on a host, for as long as the process lives.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    led: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// The system refuses.
    #[must_use]
    pub fn on(host: &Host, port: u16) -> Self {
        let address = host.at(port);
        let led = Arc::new(AtomicU64::new(0));
        let (namespace, counted) = (host.namespace().clone(), Arc::clone(&led));
        let listener = namespace.run(|| TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            namespace.run(|| {
                while let Ok((stream, _)) = listener.accept() {
                    let (namespace, counted) = (namespace.clone(), Arc::clone(&counted));
                    thread::spawn(move || namespace.run(|| serve(stream, &counted)));
                }
            });
        });
        Self { address, led }
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its URL with the login, by one of its two protocols.
    #[must_use]
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}:p%40ss@{}", LOGIN.0, self.address)
    }

    /// How many connections it led somewhere.
    #[must_use]
    pub fn led(&self) -> u64 {
        self.led.load(Ordering::Relaxed)
    }
}

/// Serves one connection to its end. What goes wrong ends it.
fn serve(mut stream: TcpStream, led: &AtomicU64) {
    let mut first = [0];
    let opened = match stream.peek(&mut first) {
        Ok(1) if first == [5] => socks5(&mut stream),
        Ok(1) => connect(&mut stream),
        _ => return,
    };
    let Ok(far) = opened else { return };
    led.fetch_add(1, Ordering::Relaxed);
    let (Ok(near_copy), Ok(far_copy)) = (stream.try_clone(), far.try_clone()) else {
        return;
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(stream, far));
        copy(far_copy, near_copy);
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn connect(stream: &mut TcpStream) -> io::Result<TcpStream> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let login = BASE64.encode(format!("{}:{}", LOGIN.0, LOGIN.1).as_bytes());
    if !head.contains(&format!("\r\nProxy-Authorization: Basic {login}\r\n")) {
        stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let far = head.split(' ').nth(1).unwrap_or_default();
    let far = dial(far.to_socket_addrs()?)?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(far)
}

fn socks5(stream: &mut TcpStream) -> io::Result<TcpStream> {
    let [_, methods] = read(stream)?;
    let mut offered = vec![0; methods.into()];
    stream.read_exact(&mut offered)?;
    if !offered.contains(&2) {
        stream.write_all(&[5, 255])?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.write_all(&[5, 2])?;
    let [_, length] = read(stream)?;
    let user = text(stream, length)?;
    let [length] = read(stream)?;
    let password = text(stream, length)?;
    let wrong = (user.as_str(), password.as_str()) != LOGIN;
    stream.write_all(&[1, wrong.into()])?;
    if wrong {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let [_, _, _, kind] = read(stream)?;
    let addresses: Vec<SocketAddr> = match kind {
        1 => {
            let host: [u8; 4] = read(stream)?;
            vec![(host, u16::from_be_bytes(read(stream)?)).into()]
        }
        4 => {
            let host: [u8; 16] = read(stream)?;
            vec![(host, u16::from_be_bytes(read(stream)?)).into()]
        }
        _ => {
            let [length] = read(stream)?;
            let name = text(stream, length)?;
            let port = u16::from_be_bytes(read(stream)?);
            (name.as_str(), port).to_socket_addrs()?.collect()
        }
    };
    let far = dial(addresses.into_iter())?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    Ok(far)
}

fn dial(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for address in addresses {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(stream: &mut TcpStream, length: u8) -> io::Result<String> {
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
