//! Which ids are allocated: one bit each, and two levels of hints above.
//!
//! The bits are the truth. An id is allocated by one compare-and-swap and freed by one atomic and,
//! so no death can tear it. A hint bit says "the word below is full"; it can be wrong for a while,
//! or for good if its writer dies, and both ways are harmless:
//! - not set over a full word: a search looks there in vain, and sets it;
//! - set over a word with room: a search passes it over; but nobody is told that the map is full
//!   before the words themselves have been read, and that reading mends the hints.
//!
//! Lowest free id first, as in Podman's bitmap. Works over plain slices: loom runs it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

const FULL: u64 = u64::MAX;

/// A view of the three levels; `hints` has a bit for each word of `bits`, `top` for each of `hints`.
#[derive(Clone, Copy)]
pub struct IdMap<'a> {
    bits: &'a [AtomicU64],
    hints: &'a [AtomicU64],
    top: &'a [AtomicU64],
}

/// What a search for a free id came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Id(u32),
    /// Every word has been read: no id is to be had, `unusable` are free but were refused.
    Full {
        unusable: u32,
    },
}

impl<'a> IdMap<'a> {
    pub fn new(bits: &'a [AtomicU64], hints: &'a [AtomicU64], top: &'a [AtomicU64]) -> Self {
        Self { bits, hints, top }
    }

    pub fn is_allocated(&self, id: u32) -> bool {
        self.bits[id as usize / 64].load(Ordering::Acquire) & (1 << (id % 64)) != 0
    }

    /// Allocates the lowest free id below `capacity` that `usable` agrees to. The caller's answer is
    /// asked for before the bit is set; an error of his ends the search.
    pub fn allocate<E>(
        &self,
        capacity: u32,
        mut usable: impl FnMut(u32) -> Result<bool, E>,
    ) -> Result<Found, E> {
        for (t, top) in self.top.iter().enumerate() {
            for h in zeroes(top.load(Ordering::Acquire)).map(|bit| t * 64 + bit) {
                let Some(hint) = self.hints.get(h) else { break };
                for w in zeroes(hint.load(Ordering::Acquire)).map(|bit| h * 64 + bit) {
                    if w * 64 >= capacity as usize {
                        return self.read_all(capacity, usable);
                    }
                    if let Some(id) = self.claim_in(w, capacity, &mut usable, &mut 0)? {
                        return Ok(Found::Id(id));
                    }
                }
            }
        }
        self.read_all(capacity, usable)
    }

    /// The search without hints, which mends them.
    #[cold]
    fn read_all<E>(
        &self,
        capacity: u32,
        mut usable: impl FnMut(u32) -> Result<bool, E>,
    ) -> Result<Found, E> {
        let mut unusable = 0;
        for w in 0..self.bits.len().min((capacity as usize).div_ceil(64)) {
            if let Some(id) = self.claim_in(w, capacity, &mut usable, &mut unusable)? {
                return Ok(Found::Id(id));
            }
            if self.bits[w].load(Ordering::Acquire) != FULL {
                self.note_room(w);
            }
        }
        Ok(Found::Full { unusable })
    }

    fn claim_in<E>(
        &self,
        w: usize,
        capacity: u32,
        usable: &mut impl FnMut(u32) -> Result<bool, E>,
        unusable: &mut u32,
    ) -> Result<Option<u32>, E> {
        let word = &self.bits[w];
        let mut refused = 0;
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == FULL {
                self.note_full(w);
                return Ok(None);
            }
            let Some(bit) = zeroes(seen | refused).next() else { return Ok(None) };
            let id = (w * 64 + bit) as u32;
            if id >= capacity {
                return Ok(None);
            }
            if !usable(id)? {
                refused |= 1 << bit;
                *unusable += 1;
            } else if self.set(w, seen, 1 << bit) {
                return Ok(Some(id));
            }
        }
    }

    /// Allocates exactly this id; false if it is taken.
    pub fn allocate_given(&self, id: u32) -> bool {
        let (w, mask) = (id as usize / 64, 1 << (id % 64));
        loop {
            let seen = self.bits[w].load(Ordering::Acquire);
            if seen & mask != 0 {
                return false;
            }
            if self.set(w, seen, mask) {
                return true;
            }
        }
    }

    fn set(&self, w: usize, seen: u64, mask: u64) -> bool {
        let done = self.bits[w]
            .compare_exchange(seen, seen | mask, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if done && seen | mask == FULL {
            self.note_full(w);
        }
        done
    }

    /// Frees the id; false if it was free.
    pub fn free(&self, id: u32) -> bool {
        let (w, mask) = (id as usize / 64, 1 << (id % 64));
        let was = self.bits[w].fetch_and(!mask, Ordering::AcqRel) & mask != 0;
        if was {
            self.note_room(w);
        }
        was
    }

    /// Frees every id.
    pub fn clear(&self) {
        for level in [self.bits, self.hints, self.top] {
            for word in level {
                word.swap(0, Ordering::AcqRel);
            }
        }
    }

    /// How many ids below `capacity` are allocated.
    pub fn count(&self, capacity: u32) -> u32 {
        let (whole, rest) = (capacity as usize / 64, capacity % 64);
        let ones = |w: usize| self.bits[w].load(Ordering::Acquire);
        let full: u32 = (0..whole).map(|w| ones(w).count_ones()).sum();
        let last = if rest == 0 { 0 } else { (ones(whole) & ((1 << rest) - 1)).count_ones() };
        full + last
    }

    /// Sets the hints over a full word, then looks again: who freed an id in between has cleared
    /// them before they were set, and is seen now.
    fn note_full(&self, w: usize) {
        let (h, bit) = (w / 64, 1 << (w % 64));
        let hint = self.hints[h].fetch_or(bit, Ordering::AcqRel) | bit;
        if self.bits[w].load(Ordering::Acquire) != FULL {
            self.note_room(w);
        } else if hint == FULL {
            self.top[h / 64].fetch_or(1 << (h % 64), Ordering::AcqRel);
            if self.hints[h].load(Ordering::Acquire) != FULL {
                self.top[h / 64].fetch_and(!(1 << (h % 64)), Ordering::AcqRel);
            }
        }
    }

    fn note_room(&self, w: usize) {
        let h = w / 64;
        self.hints[h].fetch_and(!(1 << (w % 64)), Ordering::AcqRel);
        self.top[h / 64].fetch_and(!(1 << (h % 64)), Ordering::AcqRel);
    }
}

fn zeroes(word: u64) -> impl Iterator<Item = usize> {
    let mut left = !word;
    core::iter::from_fn(move || {
        let bit = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}
