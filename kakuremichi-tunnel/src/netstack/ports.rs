//! Which ports are listened on, and which come next for flows of our own.

/// The ports that flows of our own use. What is below is left to listeners; the range is larger than
/// IANA's (RFC 6335 section 6), so that a port comes round again only after its TIME-WAIT.
const FIRST_EPHEMERAL: u16 = 16_384;

/// How many ephemeral ports there are.
pub(super) const EPHEMERAL: usize = (u16::MAX - FIRST_EPHEMERAL) as usize + 1;

/// A set of ports.
pub(super) struct PortSet {
    words: Box<[u64; 1024]>,
}

impl PortSet {
    pub(super) fn new() -> Self {
        Self {
            words: Box::new([0; 1024]),
        }
    }

    /// Replaces the set. Port zero cannot be listened on and is left out.
    pub(super) fn replace(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.words.fill(0);
        for port in ports {
            self.words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        self.words[0] &= !1;
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries((0..=u16::MAX).filter(|port| self.contains(*port)))
            .finish()
    }
}

/// Ephemeral ports, one after the other from a random start: so a port is used again as late as
/// possible (RFC 6056 weighs that against guessing, which the tunnel's encryption settles).
#[derive(Debug)]
pub(super) struct Ephemeral {
    next: u16,
}

impl Ephemeral {
    pub(super) fn new(random: u64) -> Self {
        Self {
            next: FIRST_EPHEMERAL + (random % EPHEMERAL as u64) as u16,
        }
    }

    pub(super) fn next(&mut self) -> u16 {
        let port = self.next;
        self.next = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_replaced_whole() {
        let mut set = PortSet::new();
        set.replace([0, 1, 63, 64, 65_535]);
        assert!(set.contains(1) && set.contains(63) && set.contains(64) && set.contains(65_535));
        assert!(!set.contains(0) && !set.contains(2));
        set.replace([2]);
        assert!(set.contains(2) && !set.contains(1) && !set.contains(65_535));
    }

    #[test]
    fn ephemeral_ports_come_round_after_all_others() {
        let mut ports = Ephemeral::new(u64::MAX);
        let first = ports.next();
        for _ in 1..EPHEMERAL {
            let port = ports.next();
            assert!(port >= FIRST_EPHEMERAL && port != first);
        }
        assert_eq!(ports.next(), first);
    }
}
