//! Memory for the buffers of flows.
//!
//! All rings of a stack lie in one anonymous map that is reserved at the start and gets pages only
//! where it is written. So an idle flow with large rings costs what it has used, ten thousand flows
//! need one map instead of twenty thousand, and the bound on flows is a bound on memory.
//!
//! What uses two rings (a socket) is built and kept inside a [`Lease`], which drops it before the
//! rings go back: no reference into a ring outlives the ring's turn.

#![expect(
    unsafe_code,
    reason = "rings are cut out of one raw map, and handed to a socket that wants owned buffers"
)]

use std::{
    fmt, io, slice,
    sync::{Arc, Mutex, PoisonError},
};

use memmap2::{MmapOptions, MmapRaw};

/// Ring sizes are multiples of this, the largest page size in use.
pub const RING_GRANULE: usize = 64 * 1024;

/// How many free pairs of rings keep their pages for the next flow. Beyond, pages go back to the
/// system at once.
const WARM_PAIRS: usize = 16;

/// A bounded supply of pairs of rings.
#[derive(Clone)]
pub struct Arena {
    shared: Arc<Shared>,
}

/// The type that holds on to two rings, for any life they may have.
pub trait Holder {
    /// The type, with rings that live for `'a`.
    type Of<'a>;
}

/// A value together with the two rings it uses.
pub struct Lease<H: Holder> {
    // Declared first, hence dropped first: then nothing refers to the rings any more.
    value: H::Of<'static>,
    pair: Pair,
}

struct Shared {
    map: MmapRaw,
    /// The size of one ring.
    ring: usize,
    pairs: u32,
    free: Mutex<Free>,
}

struct Free {
    /// Last in, first out: the pages of the newest are still in the cache.
    warm: Vec<u32>,
    cold: Vec<u32>,
    /// From here on no pair was ever used.
    unused: u32,
}

/// The right to one pair of rings.
struct Pair {
    shared: Arc<Shared>,
    index: u32,
}

impl Arena {
    /// Reserves address space for `pairs` pairs of rings of `ring` bytes each, rounded up to
    /// [`RING_GRANULE`].
    ///
    /// # Errors
    /// When the system refuses, or the size is beyond the address space.
    pub fn new(pairs: usize, ring: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let pairs = u32::try_from(pairs).map_err(|_| too_large())?;
        let ring = ring
            .max(1)
            .checked_next_multiple_of(RING_GRANULE)
            .ok_or_else(too_large)?;
        let total = ring
            .checked_mul(2)
            .and_then(|pair| pair.checked_mul(pairs as usize))
            .ok_or_else(too_large)?;
        // One granule of slack: a map cannot be empty.
        let map = MmapOptions::new()
            .len(total.max(RING_GRANULE))
            .no_reserve_swap()
            .map_anon()?;
        // A huge page per ring would make every idle flow cost megabytes. Where there are none the
        // call fails, and nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        let free = Free {
            warm: Vec::with_capacity(WARM_PAIRS),
            cold: Vec::new(),
            unused: 0,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                map: map.into(),
                ring,
                pairs,
                free: Mutex::new(free),
            }),
        })
    }

    /// Builds a value on two rings, or nothing when all are in use. The rings hold old bytes.
    pub fn lease<H: Holder>(
        &self,
        build: impl for<'a> FnOnce(&'a mut [u8], &'a mut [u8]) -> H::Of<'a>,
    ) -> Option<Lease<H>> {
        let index = self.shared.free().take(self.shared.pairs)?;
        let pair = Pair {
            shared: Arc::clone(&self.shared),
            index,
        };
        let (first, second) = pair.rings();
        Some(Lease {
            value: build(first, second),
            pair,
        })
    }

    /// The size of one ring.
    #[must_use]
    pub fn ring(&self) -> usize {
        self.shared.ring
    }

    /// How many pairs there are.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.shared.pairs as usize
    }

    /// How many bytes of all rings are in memory.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn resident(&self) -> usize {
        const PAGE: usize = 4_096;
        let map = &self.shared.map;
        let mut pages = vec![0_u8; map.len().div_ceil(PAGE)];
        // SAFETY: the range is the map's, and there is a byte for each page, or more where pages are larger.
        let result = unsafe { libc::mincore(map.as_mut_ptr().cast(), map.len(), pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 == 1).count() * PAGE
    }

    /// How many pairs are free.
    #[must_use]
    pub fn free(&self) -> usize {
        let free = self.shared.free();
        free.warm.len() + free.cold.len() + (self.shared.pairs - free.unused) as usize
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("pairs", &self.pairs())
            .field("free", &self.free())
            .field("ring", &self.ring())
            .finish()
    }
}

impl<H: Holder> Lease<H> {
    /// Looks at the value.
    pub fn get<R>(&self, look: impl for<'a> FnOnce(&H::Of<'a>) -> R) -> R {
        look(&self.value)
    }

    /// Works with the value. Since the rings' life is any the caller cannot name, nothing that refers
    /// to them can be carried out of `work`.
    pub fn with<R>(&mut self, work: impl for<'a> FnOnce(&mut H::Of<'a>) -> R) -> R {
        work(&mut self.value)
    }

    /// Gives the pages of the first ring, of the second, or of both back to the system; they read as zero
    /// afterwards, or as before where the system cannot. For a value that has no use for what they hold.
    pub fn discard(&mut self, first: bool, second: bool) {
        self.pair.discard(first, second);
    }
}

impl<H: Holder> fmt::Debug for Lease<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("pair", &self.pair.index)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        // A list of numbers is whole after every step, so a panic elsewhere has not broken it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Free {
    fn take(&mut self, pairs: u32) -> Option<u32> {
        self.warm.pop().or_else(|| self.cold.pop()).or_else(|| {
            let index = self.unused;
            self.unused += u32::from(index < pairs);
            (index < pairs).then_some(index)
        })
    }
}

impl Pair {
    /// The two rings. To be called once for each pair, by the lease that will hold it.
    fn rings(&self) -> (&'static mut [u8], &'static mut [u8]) {
        let ring = self.shared.ring;
        // SAFETY: the map is larger than `2 * ring * pairs` and `index` is below `pairs`, so both
        // slices lie inside of it; its pages are readable, writable and zero or written before. No
        // other reference to them exists: `index` was taken off the free list, to which only
        // `Pair::drop` returns it, and the two halves do not overlap. The life is cut to that of the
        // pair by `Lease`: it hands the slices to a `build` that must work for every life, so they can
        // be kept only in the value, which `Lease` drops before the pair and lends out for lives that
        // no caller can name. The map itself lives while any pair does.
        unsafe {
            let start = self.shared.map.as_mut_ptr().add(self.index as usize * 2 * ring);
            (
                slice::from_raw_parts_mut(start, ring),
                slice::from_raw_parts_mut(start.add(ring), ring),
            )
        }
    }

    fn discard(&self, first: bool, second: bool) {
        #[cfg(unix)]
        {
            let ring = self.shared.ring;
            let length = ring * (usize::from(first) + usize::from(second));
            if length == 0 {
                return;
            }
            let at = self.index as usize * 2 * ring + if first { 0 } else { ring };
            // SAFETY: the range is one or both of this pair's rings, page-aligned because rings are whole granules. It is
            // called by the only owner of the pair, at rest: no slice of it is being read or written.
            // The pages read as zero afterwards, and any byte is a valid `u8`.
            let result = unsafe {
                self.shared
                    .map
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, length)
            };
            if let Err(error) = result {
                tracing::debug!(%error, "pages of a ring were not given back");
            }
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.shared.free().warm.len() >= WARM_PAIRS {
            self.discard(true, true);
            self.shared.free().cold.push(self.index);
        } else {
            self.shared.free().warm.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slices;

    impl Holder for Slices {
        type Of<'a> = (&'a mut [u8], &'a mut [u8]);
    }

    fn lease(arena: &Arena) -> Option<Lease<Slices>> {
        arena.lease::<Slices>(|first, second| (first, second))
    }

    #[test]
    fn rings_are_distinct_and_of_the_size_asked_for() {
        let arena = Arena::new(3, 1).unwrap();
        assert_eq!(arena.ring(), RING_GRANULE);
        let mut leases: Vec<_> = (0..3).map(|_| lease(&arena).unwrap()).collect();
        for (number, lease) in leases.iter_mut().enumerate() {
            lease.with(|(first, second)| {
                assert_eq!((first.len(), second.len()), (RING_GRANULE, RING_GRANULE));
                first.fill(2 * number as u8);
                second.fill(2 * number as u8 + 1);
            });
        }
        for (number, lease) in leases.iter().enumerate() {
            lease.get(|(first, second)| {
                assert!(first.iter().all(|&byte| byte == 2 * number as u8));
                assert!(second.iter().all(|&byte| byte == 2 * number as u8 + 1));
            });
        }
    }

    #[test]
    fn the_supply_is_bounded_and_what_comes_back_is_given_again() {
        let arena = Arena::new(2, 1).unwrap();
        let first = lease(&arena).unwrap();
        let second = lease(&arena).unwrap();
        assert!(lease(&arena).is_none());
        assert_eq!(arena.free(), 0);
        drop(second);
        assert_eq!(arena.free(), 1);
        let again = lease(&arena).unwrap();
        assert!(lease(&arena).is_none());
        drop((first, again));
        assert_eq!(arena.free(), 2);
    }

    #[test]
    fn the_pair_returned_last_is_given_first() {
        let arena = Arena::new(4, 1).unwrap();
        let leases: Vec<_> = (0..4).map(|_| lease(&arena).unwrap()).collect();
        let last = leases[3].pair.index;
        drop(leases);
        assert_eq!(lease(&arena).unwrap().pair.index, last);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn discarded_rings_read_as_zero() {
        let arena = Arena::new(2, 1).unwrap();
        let mut kept = lease(&arena).unwrap();
        let mut gone = lease(&arena).unwrap();
        kept.with(|(first, second)| {
            first.fill(1);
            second.fill(1);
        });
        gone.with(|(first, second)| {
            first.fill(2);
            second.fill(2);
        });
        gone.discard(false, true);
        gone.get(|(first, second)| {
            assert!(first.iter().all(|&byte| byte == 2));
            assert!(second.iter().all(|&byte| byte == 0));
        });
        gone.discard(true, false);
        gone.get(|(first, second)| assert!(first.iter().chain(second.iter()).all(|&byte| byte == 0)));
        gone.discard(false, false);
        kept.get(|(first, second)| assert!(first.iter().chain(second.iter()).all(|&byte| byte == 1)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_was_written_is_in_memory_until_it_is_given_back() {
        let arena = Arena::new(8, 1).unwrap();
        let mut leases: Vec<_> = (0..8).map(|_| lease(&arena).unwrap()).collect();
        assert_eq!(arena.resident(), 0);
        for lease in &mut leases {
            lease.with(|(first, second)| {
                first[0] = 1;
                second[..5_000].fill(1);
            });
        }
        assert_eq!(arena.resident(), 8 * 3 * 4_096);
        leases.iter_mut().for_each(|lease| lease.discard(true, false));
        assert_eq!(arena.resident(), 8 * 2 * 4_096);
        leases.iter_mut().for_each(|lease| lease.discard(true, true));
        assert_eq!(arena.resident(), 0);
    }

    #[test]
    fn only_some_free_pairs_stay_warm() {
        let pairs = 3 * WARM_PAIRS;
        let arena = Arena::new(pairs, 1).unwrap();
        let leases: Vec<_> = (0..pairs).map(|_| lease(&arena).unwrap()).collect();
        drop(leases);
        assert_eq!(arena.free(), pairs);
        assert_eq!(arena.shared.free().warm.len(), WARM_PAIRS);
    }

    #[test]
    fn the_value_is_dropped_before_its_rings_go_back() {
        struct Watch(Arena);
        impl Drop for Watch {
            fn drop(&mut self) {
                assert_eq!(self.0.free(), 0);
            }
        }
        struct Watching;
        impl Holder for Watching {
            type Of<'a> = (Watch, &'a mut [u8]);
        }
        let arena = Arena::new(1, 1).unwrap();
        let lease = arena
            .lease::<Watching>(|first, _| (Watch(arena.clone()), first))
            .unwrap();
        drop(lease);
        assert_eq!(arena.free(), 1);
    }

    #[test]
    fn a_size_beyond_the_address_space_is_refused() {
        assert!(Arena::new(usize::MAX, 1).is_err());
        assert!(Arena::new(2, usize::MAX).is_err());
        assert!(Arena::new(u32::MAX as usize, usize::MAX / 4).is_err());
    }

    #[test]
    fn an_arena_without_rings_is_possible() {
        let arena = Arena::new(0, 1).unwrap();
        assert!(lease(&arena).is_none());
    }
}
