//! Mutexes that the kernel forgot.
//!
//! When a thread dies, the kernel walks its list of robust mutexes and marks each lock word. It can
//! fail to: the list has more than 2048 entries, the memory was torn down first (the OOM reaper), or
//! the list was damaged. The word then names a TID that is gone, and every waiter sleeps for ever.
//!
//! One function mends that, for every mutex of a segment. Its invariants:
//! - A mutex is taken from nobody who may be alive. "Gone" is proven, twice, around a second read of
//!   the word: either no thread has that TID, or the one that has it does not map this segment. An
//!   error or half an answer is no proof. The kernel frees a TID after it has walked the list, so
//!   nobody is robbed of an owner's death that was on its way.
//! - It does what the kernel would have done, in one compare-and-swap; dying before or after it
//!   leaves nothing half done, and a second call finds nothing to do.
//! - It never waits: if somebody else is at it, it is left to him. Even if he is stopped: with the mutex
//!   healed without him he could, when he goes on, take it from a third one of the same TID.
//!
//! What is left: the TID is given to a new thread that maps this segment, or whose maps may not be read.
//! Then there is no proof, and the mutex stays as it is until that thread has ended; [`suspect`] tells.
//! That it happens between the last proof and the swap does no harm: the new thread cannot have taken
//! this very mutex, whose word was not free.

use core::sync::atomic::Ordering;

use crate::layout::{RECOVERY_AT, Slot};
use crate::segment::Segment;
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::mutex::{Mutex, TID_MASK, gettid};
use crate::sys::{file, proc};

/// How much a look may cost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A waiter's, at the end of a slice; an allocator's that would find nothing otherwise.
    Full,
    /// A tryLock's or an allocator's: kill(2) each time (0.3 µs), /proc/PID/maps (20 µs and more) at
    /// most every [`MAPS_INTERVAL_NS`].
    Sparing,
}

const MAPS_INTERVAL_NS: u64 = 50 * NS_PER_MS;

/// Gives `mutex` back if its owner is proven to be gone; true if it did.
pub fn recover(segment: &Segment, mutex: &Mutex, effort: Effort) -> bool {
    let seen = mutex.word().load(Ordering::Acquire);
    let tid = seen & TID_MASK;
    // A free word, or one that the kernel has marked, needs no mending. musl leaves OWNER_DIED
    // beside the next owner's TID for a while: that is an owner like any other.
    if tid == 0 || tid == gettid() || !gone(segment, tid, effort) {
        return false;
    }
    let Ok(_in_process) = segment.recovering.try_lock() else { return false };
    let Some(_between_processes) = file::try_byte_lock(&segment.file, RECOVERY_AT) else {
        return false;
    };
    mutex.word().load(Ordering::Acquire) == seen
        && gone(segment, tid, Effort::Full)
        && mutex.bequeath(seen)
}

/// What cannot be proven is told, and left alone. Called when main was not to be had: the record beside
/// it was written by a thread of the number that its word names, but in another process than the one
/// which has that number now. The record is advice, and can be older than its owner; so this is no proof.
pub fn suspect(segment: &Segment, slot: &Slot) {
    let tid = slot.main.owner();
    if tid == 0 || slot.owner_tid.load(Ordering::Relaxed) != tid {
        return;
    }
    let pid = slot.owner_pid.load(Ordering::Relaxed);
    if proc::belongs_to(tid, pid, slot.owner_start.load(Ordering::Relaxed)) == Some(false)
        && slot.main.owner() == tid
    {
        segment.suspect(slot, tid);
    }
}

fn gone(segment: &Segment, tid: u32, effort: Effort) -> bool {
    if proc::no_such_thread(tid) {
        return true;
    }
    if effort == Effort::Sparing {
        let now = clock::monotonic_ns();
        let last = segment.maps_read_ns.load(Ordering::Relaxed);
        if now.saturating_sub(last) < MAPS_INTERVAL_NS {
            return false;
        }
        segment.maps_read_ns.store(now, Ordering::Relaxed);
    }
    proc::does_not_map(tid, segment.dev, segment.ino)
}
