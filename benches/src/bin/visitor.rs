//! What no load generator does for the comparison, as a program of its own, so that it can run where the
//! visitors of a system are:
//!
//! - `visitor check ADDRESS FILE NAME`: sends the file to the origin as `/NAME`, reads it back, and compares;
//! - `visitor hold ADDRESS COUNT`: opens connections, has one request answered on each, prints `held`, and
//!   keeps them until its standard input ends.

use std::{
    io::{self, BufRead as _, BufReader, Error, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// How long one connection may be silent, and how long it may take until all are held.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["check", address, file, name] => check(parsed(address)?, &std::fs::read(file)?, name),
        ["hold", address, count] => hold(parsed(address)?, parsed(count)?),
        _ => Err(Error::other(
            "usage: visitor check ADDRESS FILE NAME | visitor hold ADDRESS COUNT",
        )),
    }
}

fn parsed<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse()
        .map_err(|_| Error::other(format!("{word} makes no sense")))
}

/// The same bytes arrive there, and come back.
fn check(address: SocketAddr, bytes: &[u8], name: &str) -> io::Result<()> {
    let mut stream = connect(address)?;
    let length = bytes.len();
    write!(
        stream,
        "PUT /{name} HTTP/1.1\r\nHost: origin\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(bytes)?;
    let mut stream = BufReader::new(stream);
    answer(&mut stream)?;
    write!(stream.get_mut(), "GET /{name} HTTP/1.1\r\nHost: origin\r\n\r\n")?;
    if answer(&mut stream)? == bytes {
        return Ok(());
    }
    Err(Error::other("other bytes came back than were sent"))
}

fn hold(address: SocketAddr, count: usize) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        if Instant::now() > end {
            let answered = held.len();
            return Err(Error::other(format!(
                "{answered} of {count} connections were answered in {PATIENCE:?}"
            )));
        }
        let mut stream = BufReader::new(connect(address)?);
        write!(stream.get_mut(), "GET / HTTP/1.1\r\nHost: origin\r\n\r\n")?;
        answer(&mut stream)?;
        held.push(stream.into_inner());
    }
    writeln!(io::stdout(), "held")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The body of an answer, which must be one of 2xx.
fn answer(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
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
