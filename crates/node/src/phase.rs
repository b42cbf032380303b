//! Where a waiter stands: the moves of the helper's protocol, and nothing else. Each is one step under
//! the waiter's mutex; `helper` does what a move asks for, tests/phase/ makes them in every order.
//!
//! ```text
//!   phase      what happens                          moved by
//!   Idle       nobody serves it                      want, arm → Queued
//!   Queued     in the pool's queue, or just out      a helper has it: armed → Waiting; not → Idle
//!   Waiting    a helper is on the slow path          its turn, or soon, armed → Offering; not armed → Idle;
//!                                                    others wait for a helper → Queued
//!   Offering   the helper keeps the gate closed,     arm → Declined; stand_down → Answered; patience
//!              JS has been called. Main is free,     over: main was free → Idle, the gate is opened;
//!              or (an early offer) will soon be      an early one → Waiting, behind the gate
//!   Declined   JS came, in vain. The helper is       stand_down → Answered; the helper → Waiting, behind
//!              about to wake                         the gate, the second time anew
//!   Answered   JS has had its turn, or wants none.   armed (again) → Waiting; not armed → Idle
//!              The helper is about to open the gate
//! ```

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Queued,
    Waiting,
    Offering,
    Declined,
    Answered,
}

/// The phase, and whether JS wants the lock still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Phases {
    phase: Phase,
    armed: bool,
    /// An offer has passed since JS tried last: it is to try when the call that told of it arrives.
    missed: bool,
}

/// What whoever moved has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// Put the waiter into the pool's queue.
    Push,
    /// Wake the helper: its offer has been answered.
    Wake,
}

/// What a helper does when its turn, or its wait, is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The waiter is not this helper's any more.
    Leave,
    /// Nor is it now, and it goes to the end of the pool's queue.
    Push,
    Wait,
}

/// How an offer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// JS has had its turn, or wants none. `next` comes: who wants the lock again queues anew.
    Answered,
    /// JS had no luck, or did not come to an early one. The lock is to be waited for still: behind the same gate, or anew.
    InVain,
    /// Nobody came, and the waiter is not this helper's any more. It rests until JS, which has been called, comes and
    /// arms it.
    Missed,
}

impl Phases {
    pub const fn new() -> Self {
        Self { phase: Phase::Idle, armed: false, missed: false }
    }

    pub fn is_armed(self) -> bool {
        self.armed
    }

    /// Nobody serves it.
    pub fn rests(self) -> bool {
        self.phase == Phase::Idle
    }

    pub fn is_offering(self) -> bool {
        self.phase == Phase::Offering
    }

    /// JS wants the lock. An offer that stands goes on standing.
    pub fn want(&mut self) -> Then {
        self.armed = true;
        if !self.rests() {
            return Then::Nothing;
        }
        self.phase = Phase::Queued;
        Then::Push
    }

    /// JS has tried, and wants the lock still. An offer that stands is declined by it.
    pub fn arm(&mut self) -> Then {
        let then = self.want();
        self.missed = false;
        if self.is_offering() { self.answer(Phase::Declined) } else { then }
    }

    /// No helper could be had for it. JS is to be called: native code may have armed it, of which JS would not know.
    pub fn not_pushed(&mut self) {
        *self = Self { missed: true, ..Self::new() };
    }

    /// JS wants it no more, or has it. Whether it did want it.
    pub fn stand_down(&mut self) -> (bool, Then) {
        let wanted = std::mem::take(&mut self.armed);
        let offered = matches!(self.phase, Phase::Offering | Phase::Declined);
        (wanted, if offered { self.answer(Phase::Answered) } else { Then::Nothing })
    }

    fn answer(&mut self, how: Phase) -> Then {
        self.phase = how;
        Then::Wake
    }

    /// The helper has its turn, or is the next one. False: nobody wants it any more.
    pub fn offer(&mut self, ended: bool) -> bool {
        if ended || !self.armed {
            return false;
        }
        self.phase = Phase::Offering;
        // If one has passed before, this is another chance.
        self.missed = false;
        true
    }

    /// The helper's patience is over, or it was woken. `early`: main was not free yet.
    pub fn end_offer(&mut self, early: bool) -> Ended {
        match self.phase {
            Phase::Answered => Ended::Answered,
            Phase::Offering if !early => {
                *self = Self { missed: true, ..Self::new() };
                Ended::Missed
            }
            _ => {
                self.phase = Phase::Waiting;
                Ended::InVain
            }
        }
    }

    /// The call to JS has arrived: whether an offer has passed. (If not, and none stands, JS has had it or wants none, or
    /// the helper waits on.)
    pub fn take_missed(&mut self) -> bool {
        std::mem::take(&mut self.missed)
    }

    /// Before each wait, the first one too. `ended`: the environment is no more.
    pub fn next(&mut self, ended: bool, others_wait: bool) -> Next {
        if ended || !self.armed {
            *self = Self { missed: self.missed, ..Self::new() };
            return Next::Leave;
        }
        self.phase = if others_wait { Phase::Queued } else { Phase::Waiting };
        if others_wait { Next::Push } else { Next::Wait }
    }
}
