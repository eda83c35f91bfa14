//! Tells the kernel which shard's socket a datagram is for.
//!
//! The sockets of all shards are bound to one address. A program in the kernel, in the classic BPF that
//! every Linux since 4.5 takes without privilege, looks at WireGuard's message: those that answer one
//! of ours name our receiver index, whose top six bits are the shard. That holds wherever the sender
//! roams to. An initiation names nobody yet: the program answers with a number that no socket has, and
//! the kernel chooses by the hash of addresses and ports.

use std::{io, net::UdpSocket};

/// Attaches the program to the group of sockets that `socket` is of: those bound to its address, in
/// the order in which they were.
///
/// # Errors
/// Where there is no such thing. Datagrams then arrive anywhere, and the shards hand them over.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate offers this socket option")]
pub(super) fn attach(socket: &UdpSocket) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let mut program = linux::program();
    let filter = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open, since `socket` is borrowed. The option takes a `sock_fprog`, whose
    // size is given, and whose instructions, as many as `len` says, live until the call returns; the
    // kernel copies them and writes to neither.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// There is none.
#[cfg(not(target_os = "linux"))]
pub(super) fn attach(_socket: &UdpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod linux {
    use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_RSH, sock_filter};

    /// A number that no socket has.
    const NONE: u32 = u32::MAX;

    /// The message's type is its first byte (whitepaper, section 5.4); the index is little-endian, so
    /// its top bits are those of its last byte. A datagram too short to load from goes to socket 0.
    pub(super) fn program() -> [sock_filter; 11] {
        [
            load(0),
            jump_if(4, 6, 0),
            jump_if(3, 5, 0),
            jump_if(2, 0, 3),
            // A response: the receiver follows the sender.
            load(11),
            shift_right(2),
            RETURN_ACCUMULATOR,
            step(BPF_RET | BPF_K, NONE),
            // A cookie, or data.
            load(7),
            shift_right(2),
            RETURN_ACCUMULATOR,
        ]
    }

    /// `BPF_A`, which libc lacks.
    const RETURN_ACCUMULATOR: sock_filter = step(BPF_RET | 0x10, 0);

    const fn step(code: u32, k: u32) -> sock_filter {
        sock_filter {
            code: code as u16,
            jt: 0,
            jf: 0,
            k,
        }
    }

    const fn load(at: u32) -> sock_filter {
        step(BPF_LD | BPF_B | BPF_ABS, at)
    }

    const fn shift_right(bits: u32) -> sock_filter {
        step(BPF_ALU | BPF_RSH | BPF_K, bits)
    }

    /// Skips so many instructions.
    const fn jump_if(value: u32, jt: u8, jf: u8) -> sock_filter {
        sock_filter {
            jt,
            jf,
            ..step(BPF_JMP | BPF_JEQ | BPF_K, value)
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{io, net::UdpSocket};

    use super::super::net;

    /// Reads all datagrams that are there.
    fn count(socket: &UdpSocket) -> usize {
        let mut count = 0;
        loop {
            match socket.recv(&mut [0; 256]) {
                Ok(_) => count += 1,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return count;
                }
            }
        }
    }

    fn message(kind: u8, index_at: usize, shard: u8) -> Vec<u8> {
        let mut bytes = vec![0xee; 148];
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes[index_at + 3] = shard << 2 | 0b11;
        bytes
    }

    /// Datagrams on loopback are there once they are sent.
    #[test]
    fn datagrams_reach_the_shard_that_their_index_names() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let sockets = net::bind(&[address.parse().unwrap()], 4, true).unwrap();
            let sockets: Vec<&UdpSocket> = sockets.iter().map(|shard| &shard[0]).collect();
            let to = sockets[0].local_addr().unwrap();
            for shard in 0..4 {
                for _ in 0..16 {
                    // A port of its own each time: as if the peer roamed.
                    let from = UdpSocket::bind((to.ip(), 0)).unwrap();
                    for (kind, at) in [(2, 8), (3, 4), (4, 4)] {
                        from.send_to(&message(kind, at, shard), to).unwrap();
                    }
                }
                let counts: Vec<usize> = sockets.iter().map(|socket| count(socket)).collect();
                let mut expected = [0; 4];
                expected[usize::from(shard)] = 48;
                assert_eq!(counts, expected);
            }
            // Nobody is named: all get some.
            for _ in 0..256 {
                let from = UdpSocket::bind((to.ip(), 0)).unwrap();
                from.send_to(&message(1, 4, 3), to).unwrap();
                from.send_to(&message(4, 4, 63), to).unwrap();
            }
            let counts: Vec<usize> = sockets.iter().map(|socket| count(socket)).collect();
            assert_eq!(counts.iter().sum::<usize>(), 512);
            assert!(counts.iter().all(|count| *count > 32), "{counts:?}");
        }
    }
}
