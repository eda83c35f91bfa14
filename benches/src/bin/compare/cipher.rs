//! The cipher of the WireGuard lane by itself: the least that a byte through it can cost.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use kakuremichi_benches::machine::Trouble;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
};

use super::figure::{Figure, Sample};

/// The row's name.
pub(crate) const CIPHER: &str = "ChaCha20-Poly1305 alone";
/// What a full packet of the lane carries of a TCP stream, in bytes.
const PAYLOAD: usize = 1348;
/// The packet around it: headers of IPv6 and TCP.
const PACKET: usize = 1420;
/// Packets that are sealed before they are opened.
const BATCH: usize = 64;

/// Processor time for a GB of a stream, sealed at one end and opened at the other. One thread that never waits: the
/// time that passes is the processor's.
pub(crate) fn measure(seconds: u64) -> Result<Sample, Trouble> {
    let (packets, time) =
        run(Duration::from_secs(seconds).min(Duration::from_secs(1))).map_err(|_| Trouble::Failed {
            program: CIPHER.to_owned(),
            said: "a packet could not be sealed or opened".to_owned(),
        })?;
    let gigabytes = (packets * PAYLOAD) as f64 / 1e9;
    let mut sample = Sample::default();
    sample.put(Figure::CpuPerGb, time.as_secs_f64() / gigabytes);
    Ok(sample)
}

fn run(time: Duration) -> Result<(usize, Duration), Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32])?);
    let mut batch = vec![Vec::new(); BATCH];
    let (begin, mut packets) = (Instant::now(), 0_usize);
    while begin.elapsed() < time {
        for (at, packet) in batch.iter_mut().enumerate() {
            packet.resize(PACKET, 7);
            key.seal_in_place_append_tag(nonce(packets + at), Aad::empty(), packet)?;
        }
        for (at, packet) in batch.iter_mut().enumerate() {
            black_box(key.open_in_place(nonce(packets + at), Aad::empty(), packet)?);
        }
        packets += BATCH;
    }
    Ok((packets, begin.elapsed()))
}

fn nonce(number: usize) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&(number as u64).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
