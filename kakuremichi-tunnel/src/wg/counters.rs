//! What became of datagrams and packets.

use std::ops::AddAssign;

/// How often something happened since the device was made. What is dropped is counted in exactly one
/// field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// IP packets that were opened and handed on.
    pub opened: u64,
    /// IP packets that were sealed.
    pub sealed: u64,
    /// Handshakes that were answered, by us or by the peer.
    pub sessions: u64,
    /// Peers that were seen at a new address.
    pub roamed: u64,
    /// Cookies sent to handshake messages that came too fast.
    pub challenged: u64,
    /// Datagrams for another shard of the node.
    pub elsewhere: u64,
    /// Peers that this shard took over from another one.
    pub taken_over: u64,
    /// Peers whose session is between other static keys than before, of ours or of theirs.
    pub rotated: u64,

    /// Dropped: no message of WireGuard, or too long for the buffer.
    pub malformed: u64,
    /// Dropped: a handshake message whose sender does not know our key.
    pub bad_mac: u64,
    /// Dropped: a handshake message beyond a rate, without or in spite of proof of its address, or beyond what
    /// one peer may begin, or a response that nothing of ours asks for.
    pub limited: u64,
    /// Dropped: a handshake of a key that is no peer's.
    pub unknown_peer: u64,
    /// Dropped: for a receiver index, a session or a handshake that does not exist (any more).
    pub unknown_session: u64,
    /// Dropped: a message that was received before.
    pub replayed: u64,
    /// Dropped: a message that is not what its peer sent.
    pub forged: u64,
    /// Dropped: an opened packet whose source address is not the peer's.
    pub disallowed: u64,
    /// Dropped: a packet to a peer whose address is not known.
    pub unreachable: u64,
    /// Dropped: the oldest packets of a full queue, those whose handshake was given up, and those
    /// that are too long to wait.
    pub overflowed: u64,
}

impl AddAssign for Counters {
    /// The sum over the shards of a node.
    fn add_assign(&mut self, other: Self) {
        let Self {
            opened,
            sealed,
            sessions,
            roamed,
            challenged,
            elsewhere,
            taken_over,
            rotated,
            malformed,
            bad_mac,
            limited,
            unknown_peer,
            unknown_session,
            replayed,
            forged,
            disallowed,
            unreachable,
            overflowed,
        } = other;
        self.opened += opened;
        self.sealed += sealed;
        self.sessions += sessions;
        self.roamed += roamed;
        self.challenged += challenged;
        self.elsewhere += elsewhere;
        self.taken_over += taken_over;
        self.rotated += rotated;
        self.malformed += malformed;
        self.bad_mac += bad_mac;
        self.limited += limited;
        self.unknown_peer += unknown_peer;
        self.unknown_session += unknown_session;
        self.replayed += replayed;
        self.forged += forged;
        self.disallowed += disallowed;
        self.unreachable += unreachable;
        self.overflowed += overflowed;
    }
}
