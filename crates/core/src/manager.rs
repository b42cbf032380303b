//! The pool of a segment: which ids are allocated, and handles that know for which allocation.

use core::sync::atomic::Ordering;

use crate::error::{Code, Error, Result};
use crate::idmap::Found;
use crate::layout::{CHUNK_LOCKS, MAX_LOCKS, Slot};
use crate::open::{self, OpenOptions};
use crate::recover::{Effort, recover};
use crate::segment::{Segment, check_not_forked};
use crate::slot::Lock;

/// An open segment.
#[derive(Clone, Copy)]
pub struct Manager {
    segment: &'static Segment,
}

/// An id, and the allocation of it that the handle was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub id: u32,
    /// None if the id was free at the time: such a handle frees whatever allocation is there.
    pub generation: Option<u32>,
}

impl Manager {
    /// Opens or creates; true if this call created the segment.
    ///
    /// # Errors
    /// Everything of [`Code`] but the first four.
    pub fn open(options: &OpenOptions) -> Result<(Self, bool)> {
        check_not_forked()?;
        let (segment, created) = open::open(options)?;
        Ok((Self { segment }, created))
    }

    pub fn segment(&self) -> &'static Segment {
        self.segment
    }

    /// Allocates the lowest free id that nobody holds.
    ///
    /// # Errors
    /// `Exhausted`; `NoSpace`, `Stalled` or `Corrupt` if a chunk had to be committed and could not.
    pub fn allocate(&self) -> Result<Handle> {
        check_not_forked()?;
        let capacity = self.segment.capacity();
        let ids = self.segment.ids();
        let mut effort = Effort::Sparing;
        loop {
            // A freed lock that is held still is passed over: its holder believes to be alone.
            let usable = |id| Ok(self.is_let_go(self.segment.commit(id)?, effort));
            match ids.allocate(capacity, usable)? {
                Found::Id(id) => {
                    if let Some(handle) = self.begin_generation(id)?
                        && self.keeps(handle, effort)?
                    {
                        return Ok(handle);
                    }
                }
                Found::Full { unusable: 1.. } if effort == Effort::Sparing => effort = Effort::Full,
                Found::Full { unusable } => return Err(exhausted(capacity, unusable)),
            }
        }
    }

    /// Whether nobody holds the lock, or nobody any more, and the kernel has forgotten that.
    fn is_let_go(&self, slot: &Slot, effort: Effort) -> bool {
        slot.main.owner() == 0 || recover(self.segment, &slot.main, effort)
    }

    /// Looks once more, after the claim: somebody may have allocated the id, locked it and freed it
    /// since the first look. Then it goes back, and the next search passes over it.
    fn keeps(&self, handle: Handle, effort: Effort) -> Result<bool> {
        if self.is_let_go(self.segment.commit(handle.id)?, effort) {
            return Ok(true);
        }
        match self.free(handle) {
            // All were freed meanwhile: it is not ours to give back.
            Err(error) if !matches!(error.code, Code::NotAllocated | Code::StaleHandle) => {
                Err(error)
            }
            _ => Ok(false),
        }
    }

    /// Allocates exactly this id.
    ///
    /// # Errors
    /// `AlreadyAllocated`, `OutOfRange`; and as [`Self::allocate`].
    pub fn allocate_given(&self, id: u32) -> Result<Handle> {
        check_not_forked()?;
        self.check_range(id)?;
        self.segment.commit(id)?;
        loop {
            if !self.segment.ids().allocate_given(id) {
                let message =
                    format!("lock {id} is allocated already: retrieve it, or free it first");
                return Err(Error::new(Code::AlreadyAllocated, message));
            }
            if let Some(handle) = self.begin_generation(id)? {
                return Ok(handle);
            }
        }
    }

    /// The claimed id's next generation. None if it is not ours any more: all were freed in between,
    /// and whoever claimed the id since was faster. (Read after the claim: while the bit is ours only
    /// that can move it. Read before, an id could be freed, leaked and never found again whenever
    /// another process allocated and freed it between our two looks.)
    fn begin_generation(&self, id: u32) -> Result<Option<Handle>> {
        let generation = &self.segment.commit(id)?.generation;
        let seen = generation.load(Ordering::Acquire);
        // The low 31 bits go into `dirty`, so no more are counted.
        let next = seen.wrapping_add(1) & (u32::MAX >> 1);
        let ours =
            generation.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        Ok(ours.then_some(Handle { id, generation: Some(next) }))
    }

    /// A handle for an id, allocated or not.
    ///
    /// # Errors
    /// `OutOfRange`; and as [`Self::allocate`].
    pub fn retrieve(&self, id: u32) -> Result<Handle> {
        check_not_forked()?;
        self.check_range(id)?;
        let slot = self.segment.commit(id)?;
        let allocated = self.segment.ids().is_allocated(id);
        let generation = allocated.then(|| slot.generation.load(Ordering::Acquire));
        Ok(Handle { id, generation })
    }

    /// Frees an allocation; the lock itself stays usable. Between the look at the generation and the
    /// free lie a few instructions: a second free and a new allocation that fit in between are not
    /// noticed.
    ///
    /// # Errors
    /// `NotAllocated`; `StaleHandle` if the id is a later allocation's.
    pub fn free(&self, handle: Handle) -> Result<()> {
        check_not_forked()?;
        let Handle { id, generation } = handle;
        let now = self.segment.commit(id)?.generation.load(Ordering::Acquire);
        let ids = self.segment.ids();
        if ids.is_allocated(id) {
            if generation.is_some_and(|then| then != now) {
                let message = format!(
                    "lock {id} has been freed and allocated anew since this handle was made; \
                     retrieve it again if you mean to free the new one"
                );
                return Err(Error::new(Code::StaleHandle, message));
            }
            if ids.free(id) {
                return Ok(());
            }
        }
        let message = format!("lock {id} is not allocated: free it once, or allocate it first");
        Err(Error::new(Code::NotAllocated, message))
    }

    /// Frees every allocation, whoever uses it.
    pub fn free_all(&self) -> Result<()> {
        check_not_forked()?;
        self.segment.ids().clear();
        Ok(())
    }

    pub fn available(&self) -> u32 {
        let capacity = self.segment.capacity();
        capacity - self.segment.ids().count(capacity)
    }

    /// Ids whose lock word names a thread and whose holder is inside its section, in order. Reads
    /// only: nothing is locked, and nobody's death is consumed.
    pub fn locks_held(&self) -> Vec<u32> {
        (0..MAX_LOCKS / CHUNK_LOCKS)
            .filter(|&chunk| self.segment.has_chunk(chunk))
            .flat_map(|chunk| chunk * CHUNK_LOCKS..(chunk + 1) * CHUNK_LOCKS)
            .filter(|&id| {
                self.segment.slot(id).is_some_and(|slot| {
                    slot.main.owner() != 0 && slot.dirty.load(Ordering::Acquire) != 0
                })
            })
            .collect()
    }

    /// The lock of an id whose chunk exists: one that a [`Handle`] was made for.
    pub fn lock(&self, id: u32) -> Option<Lock> {
        self.segment.slot(id).map(|slot| Lock::new(self.segment, slot))
    }

    fn check_range(&self, id: u32) -> Result<()> {
        let capacity = self.segment.capacity();
        if id < capacity {
            return Ok(());
        }
        let message = format!("lock {id} is beyond the capacity of {capacity}");
        Err(Error::new(Code::OutOfRange, message))
    }
}

fn exhausted(capacity: u32, held: u32) -> Error {
    let mut message = format!("all {capacity} locks of the segment are allocated");
    if held > 0 {
        message = format!(
            "all {capacity} locks of the segment are allocated, or freed but held still ({held})"
        );
    }
    message.push_str("; free some, or open it with a larger capacity");
    let mut refusal = Error::new(Code::Exhausted, message);
    refusal.capacity = Some(capacity);
    refusal.held = Some(held);
    refusal
}
