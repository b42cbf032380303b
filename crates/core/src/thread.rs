//! The calling thread: how many locks it holds, and its turn.
//!
//! A *turn* is an acquisition of somebody who stood at the gate for it, or came within the quantum: straight back, past
//! those who stand there; or whoever it was, past one who has been woken for the gate and has not come. Only turns are
//! timed: who finds nobody at the gate, nor called to it, looks at no clock.

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering;

use crate::gate;
use crate::layout::Slot;
use crate::slot::Refusal;
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::mutex::{self, gettid};

/// The kernel walks 2048 entries of a dead thread's list. This leaves room for a second copy of the
/// library in the same thread, and for the gates and the admin mutex.
pub const MAX_HELD: u32 = 960;

/// How long whoever has had its turn at the gate may come straight back past those who stand there now, or were called to it, as
/// long as nobody else has had main. A hand-over to another process takes as long as a short hold or
/// two; so several short holds share one. It is the same for all.
const QUANTUM_NS: u64 = 100_000;
/// The same as long as nobody is asleep at main: then the next one is not there yet (a helper, the JS thread that
/// it calls, or whoever a release has woken has yet to run), and the lock would lie idle meanwhile.
const LONGEST_QUANTUM_NS: u64 = 1_000_000;

/// From then on in a turn, whoever comes straight back yields the processor first, if somebody has the gate and has not
/// come to main. As a rule that is the own helper, which waits for this very processor to open the gate. (And once whoever
/// comes back when his turn is over, and nobody has had main since: the next one has been woken, or waits for this very
/// processor to come to main.)
const GIVE_WAY_NS: u64 = 600_000;

/// How long after the last turn's beginning somebody who was woken for the gate may still be on his way to it. He waits no longer
/// for a processor, as a rule; and there may be nobody.
const CALLED_NS: u64 = 10 * NS_PER_MS;

/// From which time on a hold is a long one.
const LONG_HOLD_NS: u64 = 8 * NS_PER_MS;

/// In one place, because a shared library's look for a thread-local is a call: an operation makes one.
pub struct Thread {
    /// 0 before the first question.
    tid: Cell<u32>,
    pub held: Cell<u32>,
    /// Its last acquisition, of any lock, if that was a turn.
    turn: Cell<Option<Turn>>,
}

#[derive(Clone, Copy)]
struct Turn {
    slot: usize,
    token: u64,
    /// When the quantum began that it belongs to.
    began: u64,
    offers: u32,
    /// When it ended, somebody was asleep at main, ready to have it.
    awaited: bool,
    /// It has yielded since.
    gave_way: bool,
}

impl Turn {
    /// Nobody has had main since.
    fn is_last_of(&self, slot: &Slot) -> bool {
        self.token == slot.token.load(Ordering::Relaxed)
    }
}

thread_local! {
    pub static THREAD: Thread = const {
        Thread { tid: Cell::new(0), held: Cell::new(0), turn: Cell::new(None) }
    };
}

/// What has not begun yet was not written by this clock (another time namespace, damage): it is over.
fn since(began: u64) -> u64 {
    clock::monotonic_ns().checked_sub(began).unwrap_or(u64::MAX)
}

/// No quantum if nobody stands at the gate, nor was called to it; else what `otherwise` says, which is told whether
/// the gate is open.
#[inline]
fn unless_free(
    slot: &Slot,
    otherwise: impl FnOnce(bool) -> Result<Option<u64>, Refusal>,
) -> Result<Option<u64>, Refusal> {
    let is_open = gate::is_open(slot);
    if is_open && !gate::is_called(slot) { Ok(None) } else { otherwise(is_open) }
}

impl Thread {
    pub fn tid(&self) -> u32 {
        if self.tid.get() == 0 {
            self.tid.set(gettid());
        }
        self.tid.get()
    }

    /// Whether it may take one more.
    pub fn check(&self) -> Result<(), Refusal> {
        if mutex::forked() {
            return Err(Refusal::Forked);
        }
        if self.held.get() >= MAX_HELD { Err(Refusal::TooManyHeld) } else { Ok(()) }
    }

    /// Whether it may try the slot's main now, and since when its quantum lasts: there is none if nobody
    /// stands at the gate, nor was called to it; else it is that of its last turn, if that goes on, or at a
    /// free gate that of the last turn of all. `Busy`: the others' turn.
    #[inline]
    pub fn quantum(&self, slot: &Slot) -> Result<Option<u64>, Refusal> {
        unless_free(slot, |is_open| self.last_quantum(slot, is_open))
    }

    /// The same for a thread that holds nothing of the slot. Late in its turn, and when that is over, it yields the
    /// processor first.
    #[inline]
    pub fn quantum_giving_way(&self, slot: &Slot) -> Result<Option<u64>, Refusal> {
        unless_free(slot, |is_open| self.give_way(slot, is_open))
    }

    #[cold]
    fn last_quantum(&self, slot: &Slot, is_open: bool) -> Result<Option<u64>, Refusal> {
        let last = self.last_turn(slot).filter(|turn| {
            turn.is_last_of(slot) && turn.offers == slot.offers.load(Ordering::Relaxed)
        });
        let began = match last {
            // Somebody has been called to the gate: the quantum of the turn that goes on is everybody's.
            _ if is_open => slot.turn_began.load(Ordering::Relaxed),
            Some(turn) => turn.began,
            None => return Err(Refusal::Busy),
        };
        let elapsed = since(began);
        if is_open && elapsed >= CALLED_NS {
            gate::forget_called(slot);
            return Ok(None);
        }
        let awaited = last.is_some_and(|turn| turn.awaited);
        let quantum = if awaited { QUANTUM_NS } else { LONGEST_QUANTUM_NS };
        if elapsed < quantum { Ok(Some(began)) } else { Err(Refusal::Busy) }
    }

    #[cold]
    fn give_way(&self, slot: &Slot, is_open: bool) -> Result<Option<u64>, Refusal> {
        let quantum = self.last_quantum(slot, is_open);
        let gives = match quantum {
            Ok(None) => false,
            Ok(Some(began)) => !is_open && since(began) >= GIVE_WAY_NS,
            Err(_) => self.ends_now(slot),
        };
        if !gives {
            return quantum;
        }
        std::thread::yield_now();
        self.quantum(slot)
    }

    /// Whether its turn is the last one of all, and it has not yielded since: then it does so now.
    fn ends_now(&self, slot: &Slot) -> bool {
        let last = self.last_turn(slot).filter(|turn| turn.is_last_of(slot) && !turn.gave_way);
        if let Some(turn) = last {
            self.turn.set(Some(Turn { gave_way: true, ..turn }));
        }
        last.is_some()
    }

    /// It has main, and its quantum began then, if it has one.
    #[inline]
    pub fn begin_turn(&self, slot: &Slot, token: u64, quantum: Option<u64>) {
        self.turn.set(quantum.map(|began| {
            slot.turn_began.store(began, Ordering::Relaxed);
            let offers = slot.offers.load(Ordering::Relaxed);
            Turn {
                slot: ptr::from_ref(slot).addr(),
                token,
                began,
                offers,
                awaited: true,
                gave_way: false,
            }
        }));
    }

    /// It is about to let go of the slot's main.
    #[inline]
    pub fn end_turn(&self, slot: &Slot) {
        if self.turn.get().is_some() {
            self.end_last_turn(slot);
        }
    }

    #[cold]
    fn end_last_turn(&self, slot: &Slot) {
        if let Some(turn) = self.last_turn(slot) {
            self.turn.set(Some(Turn { awaited: slot.main.is_awaited(), ..turn }));
        }
    }

    fn last_turn(&self, slot: &Slot) -> Option<Turn> {
        self.turn.get().filter(|turn| turn.slot == ptr::from_ref(slot).addr())
    }

    /// Whether its turn at this slot was a long hold, and the next one's has just begun.
    pub fn held_for_long(&self, slot: &Slot) -> bool {
        self.last_turn(slot).is_some_and(|last| {
            // Older than `last.began` if the next one did not have to wait for it.
            let next_began = slot.turn_began.load(Ordering::Relaxed);
            slot.token.load(Ordering::Relaxed) == last.token.wrapping_add(1)
                && next_began.saturating_sub(last.began) >= LONG_HOLD_NS
                && since(next_began) <= LONG_HOLD_NS
        })
    }
}
