//! What no load generator does for the comparison, as a program of its own, so that it can run where the
//! visitors of a system are:
//!
//! - `visitor check ADDRESS FILE NAME [TRUSTED]`: sends the file to the origin as `/NAME`, reads it back, and compares;
//! - `visitor hold ADDRESS COUNT [TRUSTED]`: opens connections, has one request answered on each, prints `held`, and
//!   keeps them until its standard input ends.
//!
//! With the file of a trusted certificate it speaks TLS.

use std::{
    io::{self, BufRead as _, BufReader, Error, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// How long one connection may be silent, and how long it may take until all are held.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whom it asks for.
const HOST: &str = "localhost";

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["check", address, file, name, ref trusted @ ..] => {
            check(&Way::new(address, trusted)?, &std::fs::read(file)?, name)
        }
        ["hold", address, count, ref trusted @ ..] => hold(&Way::new(address, trusted)?, parsed(count)?),
        _ => Err(Error::other(
            "usage: visitor check ADDRESS FILE NAME [TRUSTED] | visitor hold ADDRESS COUNT [TRUSTED]",
        )),
    }
}

fn parsed<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse()
        .map_err(|_| Error::other(format!("{word} makes no sense")))
}

/// The same bytes arrive there, and come back.
fn check(way: &Way, bytes: &[u8], name: &str) -> io::Result<()> {
    let mut stream = way.connect()?;
    let length = bytes.len();
    write!(
        stream,
        "PUT /{name} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(bytes)?;
    stream.flush()?;
    let mut stream = BufReader::new(stream);
    answer(&mut stream)?;
    write!(stream.get_mut(), "GET /{name} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    stream.get_mut().flush()?;
    if answer(&mut stream)? == bytes {
        return Ok(());
    }
    Err(Error::other("other bytes came back than were sent"))
}

fn hold(way: &Way, count: usize) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        if Instant::now() > end {
            let answered = held.len();
            return Err(Error::other(format!(
                "{answered} of {count} connections were answered in {PATIENCE:?}"
            )));
        }
        let mut stream = BufReader::new(way.connect()?);
        write!(stream.get_mut(), "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
        stream.get_mut().flush()?;
        answer(&mut stream)?;
        held.push(stream.into_inner());
    }
    writeln!(io::stdout(), "held")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// How the origin is reached.
struct Way {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Way {
    fn new(address: &str, trusted: &[&str]) -> io::Result<Self> {
        let tls = trusted.first().map(|file| trusting(file)).transpose()?;
        Ok(Self {
            address: parsed(address)?,
            tls,
        })
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(HOST).map_err(Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(Error::other)?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }
}

/// A TLS client that believes the certificates in a file, and nothing else.
fn trusting(file: &str) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(Error::other)? {
        roots
            .add(certificate.map_err(Error::other)?)
            .map_err(Error::other)?;
    }
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?;
    Ok(Arc::new(
        versions.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// A connection, with TLS or without.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// The body of an answer, which must be one of 2xx.
fn answer(stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.to_ascii_lowercase());
    }
    let status = head.first().map_or("", String::as_str);
    if !status.starts_with("http/1.1 2") {
        return Err(Error::other(format!("answered with {status}")));
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(Ok(0), |length| parsed(length.trim()))?];
    stream.read_exact(&mut body)?;
    Ok(body)
}
