//! One lock: acquiring, releasing, and what the next holder is told.
//!
//! The dirty rule. `dirty` is written after `main` has been acquired and cleared before it is
//! released, and tells by itself whether a holder died inside:
//!
//! ```text
//!   main   dirty          meaning
//!   free   0              nobody inside, the data is whole
//!   held   0              acquiring or releasing: a death here hurts nobody
//!   held   generation     inside, or the guard of a dead holder's data is out
//!   free   generation     a holder died inside, and nobody has declared the data repaired
//!   free   other          left by a holder of an earlier allocation of the id: means nothing
//! ```
//!
//! EOWNERDEAD of the mutex is answered at once and tells the user nothing: a kill between acquiring
//! and writing `dirty` is no owner's death, and a death that the kernel lost is one all the same.

use core::sync::atomic::Ordering;
use core::time::Duration;

use crate::gate;
use crate::layout::{DIRTY, Slot};
use crate::recover::{Effort, recover};
use crate::segment::Segment;
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::mutex::{self, Lock as MutexLock};
use crate::thread::{THREAD, Thread};

/// How long who has held the lock for long and comes straight back lets the others pass: enough for a woken
/// thread to run, little beside the hold. He would find the gate just opened, by the next holder, and take it
/// from the thread that was woken for it, which with long holds then waits for whole turns more.
const LET_PASS: Duration = Duration::from_micros(300);

/// A lock of the pool, whoever has it allocated.
#[derive(Clone, Copy)]
pub struct Lock {
    pub(crate) segment: &'static Segment,
    pub(crate) slot: &'static Slot,
}

/// What a holder is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// A holder died inside its critical section, and nobody has declared the data repaired.
    pub owner_died: bool,
    /// The fencing token: larger than that of every earlier holder of this id.
    pub token: u64,
}

/// Why a lock was not acquired, or not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Busy,
    /// This thread holds it itself.
    Own,
    TimedOut,
    /// The caller said stop between two slices.
    Stopped,
    TooManyHeld,
    /// Not held by this thread.
    NotHeld,
    Forked,
    /// The mutex is damaged; the errno of the call.
    Broken(i32),
}

impl Lock {
    pub(crate) fn new(segment: &'static Segment, slot: &'static Slot) -> Self {
        Self { segment, slot }
    }

    /// One try, whoever else waits; heals the mutex of an owner that is gone.
    pub fn try_acquire(&self) -> Result<Acquired, Refusal> {
        THREAD.with(|thread| {
            thread.check()?;
            // Past a closed gate: as a rule the answer to an offer, so a turn.
            let quantum = (!gate::is_open(self.slot)).then(clock::monotonic_ns);
            loop {
                let tried = self.try_main(thread, quantum);
                let is_busy = tried == Err(Refusal::Busy);
                if !is_busy || !recover(self.segment, &self.slot.main, Effort::Sparing) {
                    return tried;
                }
            }
        })
    }

    /// One try that does not overtake those who stand at the gate, or were called to it, unless this thread's quantum goes on. (Late in
    /// that, and when it is over, it may yield the processor.)
    pub fn try_in_turn(&self) -> Result<Acquired, Refusal> {
        THREAD.with(|thread| {
            thread.check()?;
            let quantum = thread.quantum_giving_way(self.slot)?;
            self.try_main(thread, quantum)
        })
    }

    // As a call it would hand its result on from one place of the stack to another in unaligned parts: a stall
    // of 5 ns in every acquisition.
    #[inline(always)]
    fn try_main(&self, thread: &Thread, quantum: Option<u64>) -> Result<Acquired, Refusal> {
        match self.slot.main.try_lock() {
            MutexLock::Got { owner_died } => Ok(self.enter(thread, owner_died, quantum)),
            MutexLock::Busy => Err(Refusal::Busy),
            MutexLock::Own => Err(Refusal::Own),
            MutexLock::Broken(errno) => Err(Refusal::Broken(errno)),
        }
    }

    /// Waits in turn until it has the lock, on this thread. `go_on` is asked between slices, at
    /// least every second, and once more after the last one: who is to stop does not enter. A timeout
    /// makes one last try, whoever else waits, and is asked before it, too.
    pub fn acquire(
        &self,
        timeout_ms: Option<f64>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Acquired, Refusal> {
        match self.try_in_turn() {
            Err(Refusal::Busy) => {}
            settled => return settled,
        }
        if THREAD.with(|thread| thread.held_for_long(self.slot)) {
            std::thread::sleep(LET_PASS);
        }
        let now = clock::monotonic_ns();
        let deadline = timeout_ms.map(|ms| now.saturating_add((ms * NS_PER_MS as f64) as u64));
        let waited = gate::wait(self, gate::Goal::Own, deadline, go_on);
        match waited {
            Ok(won) => {
                let owner_died = won.owner_died;
                won.open_gate();
                THREAD.with(|thread| self.enter_if(thread, owner_died, go_on))
            }
            Err(Refusal::TimedOut) if !go_on() => Err(Refusal::Stopped),
            Err(Refusal::TimedOut) => self.try_acquire().map_err(|refusal| match refusal {
                Refusal::Busy => Refusal::TimedOut,
                other => other,
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// Waits for main alone, gate or no gate, for so long at most: for a thread whose helper keeps the gate closed for
    /// it (see `wait_for_turn`), or has had its turn there. `go_on` is asked once it has main, as in `acquire`.
    pub fn acquire_past_gate(
        &self,
        ns: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Acquired, Refusal> {
        THREAD.with(|thread| {
            thread.check()?;
            match self.slot.main.lock_for(ns) {
                MutexLock::Got { owner_died } => self.enter_if(thread, owner_died, go_on),
                MutexLock::Busy => Err(Refusal::Busy),
                MutexLock::Own => Err(Refusal::Own),
                MutexLock::Broken(errno) => Err(Refusal::Broken(errno)),
            }
        })
    }

    /// Main is this thread's, after a wait. The wish to stop may have come in the very slice that brought
    /// it. Nothing that takes time stands between the answer and the return.
    fn enter_if(
        &self,
        thread: &Thread,
        owner_died: bool,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Acquired, Refusal> {
        let quantum = clock::monotonic_ns();
        if !go_on() {
            self.slot.main.unlock();
            return Err(Refusal::Stopped);
        }
        Ok(self.enter(thread, owner_died, Some(quantum)))
    }

    /// A helper thread's wait: until it is this thread's turn and the lock is free, which it then
    /// leaves to the thread that it waits for, behind the gate that it keeps closed. `early` is called
    /// when the gate is this thread's, before it waits for main: that thread may wait for it itself
    /// meanwhile. False ends this wait: it has the lock, or does not want it.
    pub fn wait_for_turn(
        &self,
        go_on: &mut dyn FnMut() -> bool,
        early: &mut dyn FnMut() -> bool,
    ) -> Result<gate::Won, Refusal> {
        if mutex::forked() {
            return Err(Refusal::Forked);
        }
        let won = gate::wait(self, gate::Goal::Offer(early), None, go_on)?;
        self.pass_through();
        Ok(won)
    }

    /// The same once more, behind the same gate: somebody was faster than the thread that it waits for. `None`: that
    /// gate serves no more, and one has to queue anew.
    pub fn wait_again(
        &self,
        won: gate::Won,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<gate::Won>, Refusal> {
        let won = gate::wait_again(self, won, go_on)?;
        if won.is_some() {
            self.pass_through();
        }
        Ok(won)
    }

    fn pass_through(&self) {
        // Whoever had main before does not come back past this offer.
        let offers = self.slot.offers.load(Ordering::Relaxed).wrapping_add(1);
        self.slot.offers.store(offers, Ordering::Relaxed);
        // A real lock and unlock: it keeps the C library's chain of wake-ups whole.
        self.slot.main.unlock();
    }

    /// The dirty rule's first half, and the token. Diagnosis is written here, never at release.
    #[inline]
    fn enter(&self, thread: &Thread, owner_died: bool, quantum: Option<u64>) -> Acquired {
        thread.held.set(thread.held.get() + 1);
        let slot = self.slot;
        let acquired = self.inside();
        if owner_died && acquired.owner_died {
            slot.deaths
                .store(slot.deaths.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        slot.owner_pid.store(self.segment.own_pid, Ordering::Relaxed);
        slot.owner_tid.store(thread.tid(), Ordering::Relaxed);
        slot.owner_start.store(self.segment.own_start, Ordering::Relaxed);
        thread.begin_turn(self.slot, acquired.token, quantum);
        acquired
    }

    fn inside(&self) -> Acquired {
        let slot = self.slot;
        let mark = DIRTY | slot.generation.load(Ordering::Relaxed);
        let owner_died = slot.dirty.load(Ordering::Relaxed) == mark;
        slot.dirty.store(mark, Ordering::Release);
        // Damaged words may be anything: they are counted on from. 0 is no token.
        let token = slot.token.load(Ordering::Relaxed).wrapping_add(1).max(1);
        slot.token.store(token, Ordering::Release);
        Acquired { owner_died, token }
    }

    /// The dirty rule's second half: `keep_dirty` for a guard that was told of a death and has not
    /// declared the data repaired.
    fn leave(&self, keep_dirty: bool) {
        if !keep_dirty {
            self.slot.dirty.store(0, Ordering::Release);
        }
    }

    /// Releases the lock; complete when it returns.
    pub fn release(&self, keep_dirty: bool) -> Result<(), Refusal> {
        THREAD.with(|thread| {
            self.check_mine(thread)?;
            self.leave(keep_dirty);
            thread.end_turn(self.slot);
            self.slot.main.unlock();
            thread.held.set(thread.held.get() - 1);
            Ok(())
        })
    }

    /// Passes the lock on inside this thread, if nobody stands at the gate, nor was called to it, or its quantum goes on; the
    /// mutex stays locked.
    pub fn hand_over(&self, keep_dirty: bool) -> Result<Acquired, Refusal> {
        THREAD.with(|thread| {
            self.check_mine(thread)?;
            thread.end_turn(self.slot);
            let quantum = thread.quantum(self.slot)?;
            self.leave(keep_dirty);
            let acquired = self.inside();
            thread.begin_turn(self.slot, acquired.token, quantum);
            Ok(acquired)
        })
    }

    /// Before anything is written: the error-checking unlock would say no too late.
    fn check_mine(&self, thread: &Thread) -> Result<(), Refusal> {
        if mutex::forked() {
            return Err(Refusal::Forked);
        }
        if self.slot.main.owner() == thread.tid() { Ok(()) } else { Err(Refusal::NotHeld) }
    }

    /// Whether a wait in this process has seen that the segment's file is deleted, or an owner that
    /// seems to be lost.
    pub fn is_troubled(&self) -> bool {
        self.segment.is_known_stale() || self.segment.suspicion().is_some()
    }

    /// Whether nobody has it, nor stands at its gate: as it looks, which is nothing to rely on.
    pub fn looks_free(&self) -> bool {
        !self.is_held() && gate::is_open(self.slot)
    }

    /// Whether any thread has it at this instant, as the lock word says.
    pub fn is_held(&self) -> bool {
        self.slot.main.owner() != 0
    }
}
