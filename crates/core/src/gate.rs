//! Waiting in turn: the slow path of an acquisition.
//!
//! A robust mutex alone is unfair: whoever releases it and comes back is there before the one that
//! was woken. So those who wait stand at a gate, a second robust mutex, whose holder alone waits for
//! main (but for a JS thread whose helper stands there, or that has missed its turn). Gates are advice (main
//! excludes) and leak nothing in a kill: there is no ticket and no count.
//!
//! Two gates, because a waiter that is stopped (SIGSTOP, a frozen container) keeps the gate it has.
//! `turn` names the one that serves; it is advanced past a holder that does not run:
//!
//! ```text
//!   turn % 3   serves   advanced by whoever ...
//!   0          a        waits at a, finds main free twice in 10 ms and a's holder unmoved: to b, or
//!                       to none if b is closed too
//!   1          b        the same, the other way round
//!   2          none     finds a gate open: to that one. Meanwhile all wait for main: unfair, but
//!                       nobody hangs
//! ```
//!
//! Who has had its turn may come straight back for a while (`thread::Thread::quantum`), gate or no gate.
//!
//! A gate that has been opened to a sleeper is free until that one has run, which may be as long as the one who opened
//! it goes on: a woken thread is often put on the very processor of who woke it. So `woken` marks it: the turn ends in
//! time then, too, and whoever comes to such a gate yields the processor once before he takes it. The mark is that of the
//! serving gate; it falls when somebody has that, when `turn` moves on, or after 10 ms.
//!
//! Every wait is in slices. A wake-up can be lost (musl loses them in a kill, a frozen waiter swallows
//! them), an owner can be lost (recovery), a caller can want to stop: all are looked at in between.

use core::sync::atomic::Ordering;

use crate::layout::Slot;
use crate::recover::{Effort, recover, suspect};
use crate::slot::{Lock, Refusal};
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::mutex::{Lock as MutexLock, Mutex, gettid};

const MAIN_SLICE_NS: u64 = 100 * NS_PER_MS;
const FIRST_GATE_SLICE_NS: u64 = 50 * NS_PER_MS;
const LAST_GATE_SLICE_NS: u64 = 400 * NS_PER_MS;
/// While the queue moves. Each slice's end costs the place in it, so with long holds they must be longer
/// than the queue takes; whoever comes back to it begins with short ones, and watches for the others.
const MOVING_GATE_SLICE_NS: u64 = 800 * NS_PER_MS;
/// How long a gate's holder may leave a free main alone before it is passed over.
const SECOND_LOOK_NS: u64 = 10 * NS_PER_MS;

/// Whom the wait is for.
pub enum Goal<'a> {
    /// This thread, which will own main.
    Own,
    /// Another thread, to which this one will offer it. Called when the gate is this thread's; false ends
    /// the wait.
    Offer(&'a mut dyn FnMut() -> bool),
}

/// Main is this thread's, and so is the gate that it waited behind, if one served.
pub struct Won {
    pub(crate) owner_died: bool,
    gate: Option<Gate>,
}

/// The gate, which is this thread's.
#[derive(Clone, Copy)]
struct Gate {
    slot: &'static Slot,
    mutex: &'static Mutex,
    /// By which it serves.
    turn: u32,
    /// This thread did not wait for it, and all the same its lock word said at once that somebody sleeps there: with musl
    /// for good, once a thread was killed that did.
    doubtful: bool,
}

impl Won {
    /// Lets the next one to main.
    pub fn open_gate(self) {
        if let Some(gate) = self.gate {
            gate.open();
        }
    }
}

impl Gate {
    fn serves(self) -> bool {
        self.slot.turn.load(Ordering::Acquire) == self.turn
    }

    /// The mark comes first: whoever has the gate next takes it away.
    fn open(self) {
        if self.mutex.is_awaited() && !self.doubtful && self.serves() {
            self.slot.woken.store(1, Ordering::Relaxed);
        }
        self.mutex.unlock();
    }
}

fn serving(slot: &Slot, turn: u32) -> Option<&Mutex> {
    match turn % 3 {
        0 => Some(&slot.gate_a),
        1 => Some(&slot.gate_b),
        _ => None,
    }
}

/// Whether one may go to main at once: nobody holds the serving gate, or none serves.
pub fn is_open(slot: &Slot) -> bool {
    serving(slot, slot.turn.load(Ordering::Relaxed)).is_none_or(|gate| gate.owner() == 0)
}

/// Whether somebody has been woken for the gate, and has not had it yet. To be asked after `is_open`, which acquires: who
/// sees the gate free sees the mark, too.
pub fn is_called(slot: &Slot) -> bool {
    slot.woken.load(Ordering::Relaxed) != 0
}

/// It has been too long.
pub fn forget_called(slot: &Slot) {
    slot.woken.store(0, Ordering::Relaxed);
}

/// Moves `turn` on from `seen` to the next number that names `state`. Who was woken for the gate that served is passed over, too.
fn advance(slot: &Slot, seen: u32, state: u32) -> bool {
    // Three steps reach every state; the fourth is for the end of the u32, which 3 does not divide.
    let next = (1..=4).map(|step| seen.wrapping_add(step)).find(|turn| turn % 3 == state);
    let moved = next.is_some_and(|turn| {
        slot.turn.compare_exchange(seen, turn, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    if moved {
        forget_called(slot);
    }
    moved
}

/// How long the next wait at a gate may last: doubling, and never in step with anybody else's.
struct Slices {
    next_ns: u64,
    noise: u64,
}

impl Slices {
    fn new() -> Self {
        let seed = clock::monotonic_ns() ^ (u64::from(gettid()) << 32);
        Self { next_ns: FIRST_GATE_SLICE_NS, noise: seed | 1 }
    }

    /// A slice went by, and the gate has changed hands in it, or not.
    fn passed(&mut self, moving: bool) {
        let longest = if moving { MOVING_GATE_SLICE_NS } else { LAST_GATE_SLICE_NS };
        self.next_ns = (self.next_ns * 2).min(longest);
    }

    fn take(&mut self) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        self.next_ns * 3 / 4 + self.noise % (self.next_ns / 2)
    }

    fn restart(&mut self) {
        self.next_ns = FIRST_GATE_SLICE_NS;
    }
}

/// What is looked at between two slices.
struct Waiter<'a> {
    lock: &'a Lock,
    deadline: Option<u64>,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Waiter<'_> {
    /// How much of `slice` is left to the deadline, or why to stop.
    fn cut(&mut self, slice: u64) -> Result<u64, Refusal> {
        let Some(deadline) = self.deadline else { return Ok(slice) };
        match deadline.saturating_sub(clock::monotonic_ns()) {
            0 => Err(Refusal::TimedOut),
            left => Ok(left.min(slice)),
        }
    }

    fn between(&mut self) -> Result<(), Refusal> {
        self.lock.segment.is_stale();
        if (self.go_on)() { Ok(()) } else { Err(Refusal::Stopped) }
    }

    /// One slice of waiting for main; `None` if it went by.
    fn main(&mut self) -> Result<Option<bool>, Refusal> {
        let main = &self.lock.slot.main;
        match main.lock_for(self.cut(MAIN_SLICE_NS)?) {
            MutexLock::Got { owner_died } => Ok(Some(owner_died)),
            MutexLock::Busy => {
                if !recover(self.lock.segment, main, Effort::Full) {
                    suspect(self.lock.segment, self.lock.slot);
                }
                Ok(None)
            }
            MutexLock::Own => Err(Refusal::Own),
            MutexLock::Broken(errno) => Err(Refusal::Broken(errno)),
        }
    }

    /// Waits for main behind `gate`, which is this thread's. `None`: `turn` has moved on, and the
    /// gate is open again.
    fn behind(&mut self, gate: Gate) -> Result<Option<Won>, Refusal> {
        while gate.serves() {
            let waited = self.main();
            match waited {
                Ok(Some(owner_died)) => return Ok(Some(Won { owner_died, gate: Some(gate) })),
                Ok(None) => {}
                Err(refusal) => {
                    gate.open();
                    return Err(refusal);
                }
            }
            if let Err(refusal) = self.between() {
                gate.open();
                return Err(refusal);
            }
        }
        gate.open();
        Ok(None)
    }

    /// A slice at `gate` went by and main is free: is the gate's holder running? Looks a second time
    /// before it says no: a holder that merely has not been scheduled moves within 10 ms.
    fn suspect(&mut self, gate: &'static Mutex, turn: u32) -> Result<Suspicion, Refusal> {
        let slot = self.lock.slot;
        let (holder, token) = (gate.owner(), slot.token.load(Ordering::Relaxed));
        if holder == 0 || slot.main.owner() != 0 {
            return Ok(Suspicion::None);
        }
        match gate.lock_for(self.cut(SECOND_LOOK_NS)?) {
            MutexLock::Got { .. } => return Ok(Suspicion::GateOpened),
            MutexLock::Busy => {}
            MutexLock::Own => return Err(Refusal::Own),
            MutexLock::Broken(errno) => return Err(Refusal::Broken(errno)),
        }
        let unmoved = gate.owner() == holder
            && slot.token.load(Ordering::Relaxed) == token
            && slot.main.owner() == 0;
        if !unmoved {
            return Ok(Suspicion::None);
        }
        let (other, state) =
            if turn.is_multiple_of(3) { (&slot.gate_b, 1) } else { (&slot.gate_a, 0) };
        recover(self.lock.segment, other, Effort::Full);
        let state = if other.owner() == 0 { state } else { 2 };
        Ok(if advance(slot, turn, state) { Suspicion::Advanced } else { Suspicion::None })
    }

    /// No gate serves: waits for main like everybody, unless a gate can be put back to work.
    fn without_gate(&mut self, turn: u32) -> Result<Option<Won>, Refusal> {
        let slot = self.lock.slot;
        for (gate, state) in [(&slot.gate_a, 0), (&slot.gate_b, 1)] {
            // Sparing: this is where everybody passes before each wait now.
            recover(self.lock.segment, gate, Effort::Sparing);
            if gate.owner() == 0 {
                advance(slot, turn, state);
                return Ok(None);
            }
        }
        let won = self.main()?.map(|owner_died| Won { owner_died, gate: None });
        if won.is_none() {
            self.between()?;
        }
        Ok(won)
    }
}

enum Suspicion {
    None,
    GateOpened,
    Advanced,
}

/// Waits until this thread has main. Between slices it looks for owners that are gone, for the
/// deadline, and asks `go_on`.
pub fn wait(
    lock: &Lock,
    mut goal: Goal<'_>,
    deadline: Option<u64>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Won, Refusal> {
    let slot: &'static Slot = lock.slot;
    let mut waiter = Waiter { lock, deadline, go_on };
    let mut slices = Slices::new();
    if is_open(slot) && is_called(slot) {
        // Whose time is over does not yield.
        waiter.cut(0)?;
        std::thread::yield_now();
    }
    loop {
        let turn = slot.turn.load(Ordering::Acquire);
        let Some(gate) = serving(slot, turn) else {
            match waiter.without_gate(turn)? {
                Some(won) => return Ok(won),
                None => continue,
            }
        };
        let holder = gate.owner();
        let mut mine = match gate.lock_for(waiter.cut(slices.take())?) {
            MutexLock::Got { .. } => true,
            MutexLock::Busy => false,
            // Another copy of the library in this thread waits here: leave the gate to it.
            MutexLock::Own => return Err(Refusal::Own),
            MutexLock::Broken(errno) => return Err(Refusal::Broken(errno)),
        };
        let doubtful = mine && holder == 0 && gate.is_awaited();
        if !mine {
            slices.passed(gate.owner() != holder);
            waiter.between()?;
            recover(lock.segment, gate, Effort::Full);
            match waiter.suspect(gate, turn)? {
                // Somebody else has moved it on: what was learnt of the old gate's queue says nothing of the new one's.
                // (Who had the old gate keeps his slices: he has waited long enough, and would lose his place often.)
                Suspicion::None if slot.turn.load(Ordering::Relaxed) != turn => slices.restart(),
                Suspicion::None => {}
                Suspicion::GateOpened => mine = true,
                Suspicion::Advanced => {
                    slices.restart();
                    if matches!(goal, Goal::Own)
                        && let MutexLock::Got { owner_died } = slot.main.try_lock()
                    {
                        return Ok(Won { owner_died, gate: None });
                    }
                }
            }
        }
        if mine {
            let gate = Gate { slot, mutex: gate, turn, doubtful };
            if gate.serves() {
                forget_called(slot);
            }
            if let Goal::Offer(early) = &mut goal
                && !early()
            {
                gate.open();
                return Err(Refusal::Stopped);
            }
            if let Some(won) = waiter.behind(gate)? {
                return Ok(won);
            }
        }
    }
}

/// Waits for main once more, behind the gate that was kept. `None`: it serves no more, or none did.
pub fn wait_again(
    lock: &Lock,
    won: Won,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Won>, Refusal> {
    let mut waiter = Waiter { lock, deadline: None, go_on };
    won.gate.map_or(Ok(None), |gate| waiter.behind(gate))
}
