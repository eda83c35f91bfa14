//! Keys that follow each other, on the disk.
//!
//! A node cannot know on which side of Control's decision it dies. So new keys are on the disk before anybody hears of
//! them, in one file beside those that the node has; and they take the place of those by steps of which each
//! can be the last:
//!
//! 1. those of before are written, for as long as they count;
//! 2. the identity is replaced: from here on the node is the new one;
//! 3. the WireGuard key is replaced;
//! 4. the file with the new keys goes.
//!
//! A start that finds new keys whose identity the node has already goes on with step 3.

use data_encoding::BASE64;
use kakuremichi_core::{secret::Secret, time::Timestamp};

use super::{IDENTITY, Place, StateDir, StateError, WIREGUARD};
use crate::keys::{self, Held, KeyRing, NodeKeys, Renewed};

/// The keys that the node proposes.
pub(super) const NEXT: &str = "keys.next";
/// Those that it had before.
pub(super) const PREVIOUS: &str = "keys.previous";
const HEADER: &str = "kakuremichi keys 1";

/// Keys as they are kept.
struct Kept {
    identity: Secret<Vec<u8>>,
    wireguard: Secret<String>,
    /// Until when those of before count.
    until: Option<Timestamp>,
}

impl StateDir {
    /// All keys that the node holds, and until when those of before count. A promotion that did not get to its end gets
    /// there.
    ///
    /// # Errors
    /// As [`keys`](Self::keys).
    pub(crate) fn key_ring(&self, now: Timestamp) -> Result<(KeyRing, Option<Timestamp>), StateError> {
        let Some(place) = &self.place else {
            return Ok((KeyRing::of(self.keys()?), None));
        };
        place.finish_promotion()?;
        let mut held = Held {
            current: self.keys()?,
            next: place.kept(NEXT)?.map(|(_, keys)| keys),
            previous: None,
        };
        let mut until = None;
        if let Some((kept, keys)) = place.kept(PREVIOUS)? {
            // Those of a promotion that did not get beyond its first step are those that the node has.
            let counts = kept.until.is_some_and(|until| now < until);
            if counts && keys.identity() != held.current.identity() {
                until = kept.until;
                held.previous = Some(keys);
            }
        }
        Ok((KeyRing::new(held), until))
    }

    /// Keys to propose: those that were made before and not answered, else new ones. They are on the disk.
    ///
    /// # Errors
    /// As [`keys`](Self::keys).
    pub(crate) fn next_keys(&self, current: &NodeKeys, renewed: Renewed) -> Result<NodeKeys, StateError> {
        let identity = keys::generate_identity().map_err(StateError::Key)?;
        let wireguard = match renewed {
            Renewed::Both => Some(keys::generate_wireguard().map_err(StateError::Key)?),
            Renewed::Identity => None,
        };
        let Some(place) = &self.place else {
            let keys = match &wireguard {
                Some(wireguard) => NodeKeys::assemble(&identity, wireguard),
                None => current.with_identity(&identity),
            };
            return keys.map_err(StateError::Key);
        };
        if let Some((_, keys)) = place.kept(NEXT)? {
            return Ok(keys);
        }
        let next = Kept {
            identity,
            wireguard: wireguard.map_or_else(|| place.wireguard(), Ok)?,
            until: None,
        };
        place.write(NEXT, next.to_text().expose().as_bytes())?;
        next.keys().map_err(StateError::Key)
    }

    /// The keys that were proposed are those that the node has. Those of before are kept until then, if they count.
    ///
    /// # Errors
    /// [`StateError::Io`]; what is left is done at the next start.
    pub(crate) fn promote_keys(&self, previous_until: Option<Timestamp>) -> Result<(), StateError> {
        let Some(place) = &self.place else { return Ok(()) };
        let Some((next, _)) = place.kept(NEXT)? else {
            return Ok(());
        };
        match (previous_until, place.read(IDENTITY)?) {
            (Some(_), Some(identity)) => {
                let previous = Kept {
                    identity: Secret::new(identity),
                    wireguard: place.wireguard()?,
                    until: previous_until,
                };
                place.write(PREVIOUS, previous.to_text().expose().as_bytes())?;
            }
            _ => place.remove(PREVIOUS)?,
        }
        place.write(IDENTITY, next.identity.expose())?;
        place.finish_promotion()
    }

    /// The keys that were proposed are none.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub(crate) fn discard_next_keys(&self) -> Result<(), StateError> {
        self.place.as_ref().map_or(Ok(()), |place| place.remove(NEXT))
    }

    /// The keys of before count no more.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub(crate) fn forget_previous_keys(&self) -> Result<(), StateError> {
        self.place.as_ref().map_or(Ok(()), |place| place.remove(PREVIOUS))
    }

    /// When the keys that the node has were made; nothing where that is not remembered.
    pub(crate) fn keys_made(&self) -> Option<Timestamp> {
        let path = self.place.as_ref()?.path.join(IDENTITY);
        let made = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        made.ok().map(Timestamp::from)
    }
}

impl Place {
    /// Steps 3 and 4, if step 2 was done.
    fn finish_promotion(&self) -> Result<(), StateError> {
        let Some((next, _)) = self.kept(NEXT)? else {
            return Ok(());
        };
        if self.read(IDENTITY)?.as_ref() != Some(next.identity.expose()) {
            return Ok(());
        }
        self.write(WIREGUARD, next.wireguard.expose().as_bytes())?;
        self.remove(NEXT)
    }

    fn wireguard(&self) -> Result<Secret<String>, StateError> {
        let bytes = self.read(WIREGUARD)?.unwrap_or_default();
        Ok(Secret::new(String::from_utf8(bytes).unwrap_or_default()))
    }

    fn kept(&self, name: &str) -> Result<Option<(Kept, NodeKeys)>, StateError> {
        let Some(bytes) = self.read(name)?.map(Secret::new) else {
            return Ok(None);
        };
        let kept = std::str::from_utf8(bytes.expose()).ok().and_then(Kept::from_text);
        let Some(kept) = kept else {
            return Err(self.damaged(name, None));
        };
        let keys = kept.keys().map_err(|error| self.damaged(name, Some(error)))?;
        Ok(Some((kept, keys)))
    }
}

impl Kept {
    fn keys(&self) -> Result<NodeKeys, keys::KeyError> {
        NodeKeys::assemble(&self.identity, &self.wireguard)
    }

    /// One `name value` per line, as the enrolment.
    fn to_text(&self) -> Secret<String> {
        let identity = Secret::new(BASE64.encode(self.identity.expose()));
        let mut text = format!(
            "{HEADER}\nidentity {}\nwireguard {}\n",
            identity.expose(),
            self.wireguard.expose().trim()
        );
        if let Some(until) = self.until {
            text.push_str(&format!("until {}\n", until.as_millis()));
        }
        Secret::new(text)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let (mut identity, mut wireguard, mut until) = (None, None, None);
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            match name {
                "identity" => identity = Some(BASE64.decode(value.as_bytes()).ok()?),
                "wireguard" => wireguard = Some(value.to_owned()),
                "until" => until = Some(Timestamp::from_millis(value.parse().ok()?)),
                _ => return None,
            }
        }
        Some(Self {
            identity: Secret::new(identity?),
            wireguard: Secret::new(wireguard?),
            until,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn open(directory: &tempfile::TempDir) -> StateDir {
        StateDir::open(&directory.path().join("state")).unwrap()
    }

    /// Whoever dies before Control decided, and whoever dies after it, finds both sets at its next start.
    #[test]
    fn keys_to_be_are_on_the_disk_before_anybody_hears_of_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let state = open(&directory);
        let current = state.keys().unwrap();
        let next = state.next_keys(&current, Renewed::Both).unwrap();
        assert_ne!(next.identity(), current.identity());
        assert_ne!(next.wireguard(), current.wireguard());
        let file = directory.path().join("state").join(NEXT);
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(state);

        let state = open(&directory);
        let (ring, until) = state.key_ring(NOW).unwrap();
        let held = ring.held();
        assert_eq!(held.current.identity(), current.identity());
        let again = held.next.unwrap();
        assert_eq!(again.identity(), next.identity());
        assert_eq!(again.wireguard(), next.wireguard());
        assert!(held.previous.is_none() && until.is_none());
        // Control may have those: others are not made in their place.
        assert_eq!(
            state.next_keys(&current, Renewed::Both).unwrap().identity(),
            next.identity()
        );
    }

    #[test]
    fn new_keys_take_the_place_of_old_ones_which_are_held_while_they_count() {
        let directory = tempfile::tempdir().unwrap();
        let state = open(&directory);
        let current = state.keys().unwrap();
        let next = state.next_keys(&current, Renewed::Both).unwrap();
        let until = NOW.after(Duration::from_secs(60));
        state.promote_keys(Some(until)).unwrap();
        // It is not done twice.
        state.promote_keys(None).unwrap();
        let (ring, held_until) = state.key_ring(NOW).unwrap();
        let held = ring.held();
        assert_eq!(
            (held.current.identity(), held_until),
            (next.identity(), Some(until))
        );
        let previous = held.previous.unwrap();
        assert_eq!(previous.identity(), current.identity());
        assert_eq!(previous.wireguard(), current.wireguard());
        assert_eq!(held.current.wireguard(), next.wireguard());
        assert!(held.next.is_none());
        let (ring, _) = state.key_ring(until).unwrap();
        assert!(ring.held().previous.is_none(), "their time is over");
        state.forget_previous_keys().unwrap();
        assert!(state.key_ring(NOW).unwrap().0.held().previous.is_none());

        let third = state.next_keys(&next, Renewed::Both).unwrap();
        state.promote_keys(None).unwrap();
        let held = state.key_ring(NOW).unwrap().0.held();
        assert_eq!(held.current.identity(), third.identity());
        assert!(held.previous.is_none());
        state.next_keys(&third, Renewed::Both).unwrap();
        state.discard_next_keys().unwrap();
        assert!(state.key_ring(NOW).unwrap().0.held().next.is_none());
    }

    /// The promotion ends after each of its steps, and the next start makes the best of it.
    #[test]
    fn a_promotion_that_was_interrupted_is_begun_again_or_finished() {
        let until = NOW.after(Duration::from_secs(60));
        for steps in 1..=3 {
            let directory = tempfile::tempdir().unwrap();
            let state = open(&directory);
            let current = state.keys().unwrap();
            let next = state.next_keys(&current, Renewed::Both).unwrap();
            let place = state.place.as_ref().unwrap();
            let old = Kept {
                identity: Secret::new(place.read(IDENTITY).unwrap().unwrap()),
                wireguard: place.wireguard().unwrap(),
                until: Some(until),
            };
            let (kept, _) = place.kept(NEXT).unwrap().unwrap();
            place.write(PREVIOUS, old.to_text().expose().as_bytes()).unwrap();
            if steps >= 2 {
                place.write(IDENTITY, kept.identity.expose()).unwrap();
            }
            if steps >= 3 {
                place
                    .write(WIREGUARD, kept.wireguard.expose().as_bytes())
                    .unwrap();
            }
            drop(state);
            let state = open(&directory);
            let held = state.key_ring(NOW).unwrap().0.held();
            if steps == 1 {
                assert_eq!(held.current.identity(), current.identity());
                assert_eq!(held.next.unwrap().identity(), next.identity());
                assert!(held.previous.is_none(), "it has those still");
                state.promote_keys(Some(until)).unwrap();
            } else {
                assert_eq!(held.current.identity(), next.identity());
                assert_eq!(held.previous.unwrap().identity(), current.identity());
            }
            let held = state.key_ring(NOW).unwrap().0.held();
            assert_eq!(held.current.identity(), next.identity());
            assert_eq!(held.current.wireguard(), next.wireguard());
            assert!(held.next.is_none(), "after step {steps}");
        }
    }

    #[test]
    fn a_node_that_stock_devices_know_keeps_its_wireguard_key() {
        let directory = tempfile::tempdir().unwrap();
        for state in [open(&directory), StateDir::memory()] {
            let current = state.keys().unwrap();
            let next = state.next_keys(&current, Renewed::Identity).unwrap();
            assert_ne!(next.identity(), current.identity());
            assert_eq!(next.wireguard(), current.wireguard());
        }
    }

    #[test]
    fn damaged_keys_are_never_replaced_by_themselves() {
        let directory = tempfile::tempdir().unwrap();
        let state = open(&directory);
        let current = state.keys().unwrap();
        state.write(NEXT, b"what is this").unwrap();
        assert!(matches!(state.key_ring(NOW), Err(StateError::Damaged { .. })));
        assert!(matches!(
            state.next_keys(&current, Renewed::Both),
            Err(StateError::Damaged { .. })
        ));
    }
}
