//! The world of one waiter, and every move in it.

use crate::phase::{Ended, Next, Phases, Then};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Nobody,
    Js,
    Helper(usize),
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Helper {
    None,
    /// Has the waiter, or goes on with it.
    Begins,
    AtGate,
    BehindGate,
    OffersEarly,
    HasMain,
    HasTurn,
    Offers,
    /// Is about to open the gate; goes on afterwards, or leaves.
    Opens,
    Missed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Js {
    Runs,
    /// In lockSync, having stood the helper down that was wanted or not.
    Blocks {
        wanted: bool,
    },
    /// Waits for main itself, as an early offer let it, or because it came too late for one.
    WaitsForMain {
        late: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub phases: Phases,
    pub js: Js,
    pub tasks: u8,
    /// queue.cts's own note.
    pub noted: bool,
    pub posted: bool,
    pub called: bool,
    pub pooled: u8,
    pub helpers: [Helper; 3],
    pub main: Holder,
    pub gate: Holder,
    /// JS has had main since the offer that stands was made.
    pub had_turn: bool,
}

const MOST_TASKS: u8 = 2;

impl World {
    pub fn new() -> Self {
        Self {
            phases: Phases::new(),
            js: Js::Runs,
            tasks: 0,
            noted: false,
            posted: false,
            called: false,
            pooled: 0,
            helpers: [Helper::None; 3],
            main: Holder::Nobody,
            gate: Holder::Nobody,
            had_turn: false,
        }
    }

    pub fn owns(&self) -> bool {
        self.main == Holder::Js
    }

    fn follow(&mut self, then: Then) {
        self.pooled += u8::from(then == Then::Push);
    }

    // What the queue does.

    fn arm(&mut self) {
        self.noted = true;
        let then = self.phases.arm();
        self.follow(then);
    }

    fn stand_down(&mut self) {
        self.noted = false;
        self.phases.stand_down();
    }

    fn enter(&mut self) {
        self.main = Holder::Js;
        self.had_turn = self
            .helpers
            .iter()
            .any(|helper| matches!(helper, Helper::OffersEarly | Helper::Offers));
        if self.noted {
            self.stand_down();
        }
    }

    fn remove(&mut self) {
        self.tasks -= 1;
        if self.tasks == 0 && self.noted {
            self.stand_down();
        }
    }

    fn try_for_first(&mut self) -> bool {
        let free = self.main == Holder::Nobody;
        if free {
            self.remove();
            self.enter();
        }
        free
    }

    /// Everything that JS can do now.
    pub fn js(&self, out: &mut Vec<(&'static str, World)>) {
        let mut then = |what, change: &dyn Fn(&mut World)| {
            let mut next = *self;
            change(&mut next);
            out.push((what, next));
        };
        let in_turn = self.main == Holder::Nobody && self.gate == Holder::Nobody;
        // A thread whose quantum goes on passes a closed gate. The clock says so: here it may, or not.
        let in_quantum = self.main == Holder::Nobody;
        match self.js {
            Js::Runs => {
                if self.tasks == 0 && in_quantum {
                    then("lock() at once", &Self::enter);
                }
                if (self.tasks > 0 || !in_turn) && self.tasks < MOST_TASKS {
                    then("lock() joins the queue", &|w| {
                        w.tasks += 1;
                        if !w.owns() {
                            w.noted = true;
                            let then = w.phases.want();
                            w.follow(then);
                        }
                    });
                }
                if self.tasks > 0 {
                    then("abort", &Self::remove);
                    then("time over", &|w| {
                        if w.owns() || !w.try_for_first() {
                            w.remove();
                        }
                    });
                }
                if self.owns() {
                    if self.tasks > 0 {
                        then("a hand-over", &|w| {
                            w.remove();
                            w.enter();
                        });
                    }
                    if self.tasks == 0 || self.gate != Holder::Nobody {
                        then("unlock", &|w| {
                            w.main = Holder::Nobody;
                            if w.tasks > 0 {
                                w.arm();
                            }
                        });
                    }
                } else {
                    then("tryLock", &|w| {
                        if w.main == Holder::Nobody {
                            w.enter();
                        }
                    });
                    if in_quantum {
                        then("lockSync at once", &Self::enter);
                    }
                    if !in_turn {
                        then("lockSync", &|w| {
                            let (wanted, then) = w.phases.stand_down();
                            w.follow(then);
                            w.js = Js::Blocks { wanted };
                        });
                    }
                }
                if self.called {
                    for waits in [false, true] {
                        then("the call arrives", &|w| {
                            w.called = false;
                            if !std::mem::take(&mut w.posted) {
                                return;
                            }
                            let stands = w.phases.is_offering();
                            let missed = w.phases.take_missed() && !stands;
                            if !stands && !missed {
                                return;
                            }
                            if w.tasks == 0 || w.owns() {
                                return w.stand_down();
                            }
                            if stands && waits {
                                w.js = Js::WaitsForMain { late: false };
                            } else if !w.try_for_first() {
                                w.arm();
                                if missed && waits {
                                    w.js = Js::WaitsForMain { late: true };
                                }
                            }
                        });
                    }
                }
            }
            Js::Blocks { wanted } => {
                if self.main == Holder::Nobody {
                    then("lockSync has it", &|w| {
                        w.js = Js::Runs;
                        w.enter();
                    });
                }
                for ends_vm in [false, true] {
                    then("lockSync ends without it", &|w| {
                        w.js = Js::Runs;
                        if wanted {
                            let then = w.phases.arm();
                            w.follow(then);
                        }
                        if !ends_vm && w.tasks > 0 {
                            w.arm();
                        }
                    });
                }
            }
            Js::WaitsForMain { .. } => then("it had main, or not in time", &|w| {
                w.js = Js::Runs;
                if !w.try_for_first() {
                    w.arm();
                }
            }),
        }
    }

    fn end_offer(&mut self, early: bool) -> Helper {
        match self.phases.end_offer(early) {
            Ended::Answered => Helper::Opens,
            Ended::InVain => {
                assert!(!self.had_turn, "a second turn behind the same gate");
                Helper::BehindGate
            }
            Ended::Missed => Helper::Missed,
        }
    }

    /// Everything that a helper can do now.
    pub fn helper(&self, i: usize, out: &mut Vec<(&'static str, World)>) {
        let mut then = |what, change: &dyn Fn(&mut World) -> Helper| {
            let mut next = *self;
            let state = change(&mut next);
            next.helpers[i] = state;
            out.push((what, next));
        };
        let mine = Holder::Helper(i);
        match self.helpers[i] {
            Helper::None => {
                if self.pooled > 0 && self.helpers[..i].iter().all(|&other| other != Helper::None) {
                    then("a helper takes the waiter", &|w| {
                        w.pooled -= 1;
                        Helper::Begins
                    });
                }
            }
            Helper::Begins => {
                for others_wait in [false, true] {
                    then("it goes on", &|w| match w.phases.next(false, others_wait) {
                        Next::Leave => Helper::None,
                        Next::Push => {
                            w.pooled += 1;
                            Helper::None
                        }
                        Next::Wait => {
                            assert!(w.phases.is_armed(), "a wait for nobody");
                            Helper::AtGate
                        }
                    });
                }
            }
            Helper::AtGate => {
                then("a slice at the gate goes by, others wait", &|_| Helper::Begins);
                if self.gate == Holder::Nobody {
                    then("it has the gate", &|w| {
                        w.gate = mine;
                        Helper::BehindGate
                    });
                    then("it has the gate, and offers early", &|w| {
                        w.gate = mine;
                        if !w.phases.offer(false) {
                            return Helper::Opens;
                        }
                        w.posted = true;
                        w.called = true;
                        w.had_turn = false;
                        Helper::OffersEarly
                    });
                }
            }
            Helper::OffersEarly => {
                then("it wakes, or the early offer's time is over", &|w| w.end_offer(true))
            }
            Helper::BehindGate => {
                then("a slice on main goes by, others wait", &|w| {
                    w.gate = Holder::Nobody;
                    Helper::Begins
                });
                if self.main == Holder::Nobody {
                    then("it has main", &|w| {
                        w.main = mine;
                        Helper::HasMain
                    });
                }
            }
            Helper::HasMain => then("it lets go of main", &|w| {
                w.main = Holder::Nobody;
                Helper::HasTurn
            }),
            Helper::HasTurn => then("it offers", &|w| {
                if !w.phases.offer(false) {
                    return Helper::Opens;
                }
                w.posted = true;
                w.called = true;
                w.had_turn = false;
                Helper::Offers
            }),
            Helper::Offers => {
                then("it wakes, or its patience is over", &|w| w.end_offer(false));
            }
            Helper::Opens => then("it opens the gate", &|w| {
                w.gate = Holder::Nobody;
                Helper::Begins
            }),
            Helper::Missed => then("it opens the gate and leaves", &|w| {
                w.gate = Holder::Nobody;
                Helper::None
            }),
        }
    }

    /// The process is at its limit: the tasks are told.
    pub fn no_thread(&self, out: &mut Vec<(&'static str, World)>) {
        if self.pooled > 0 && self.helpers == [Helper::None; 3] && self.js == Js::Runs {
            let (posted, called) = (true, true);
            let mut next = Self { pooled: 0, tasks: 0, noted: false, posted, called, ..*self };
            next.phases.not_pushed();
            out.push(("no thread can be had", next));
            // Native code had armed it: JS does not know, and its tasks wait on.
            let mut next = Self { pooled: 0, posted, called, ..*self };
            next.phases.not_pushed();
            out.push(("no thread can be had, JS does not hear of it", next));
        }
    }

    pub fn stranger(&self, out: &mut Vec<(&'static str, World)>) {
        let take = |holder| match holder {
            Holder::Nobody => Some(Holder::Stranger),
            Holder::Stranger => Some(Holder::Nobody),
            _ => None,
        };
        out.extend(take(self.main).map(|main| ("main changes hands", Self { main, ..*self })));
        out.extend(take(self.gate).map(|gate| ("the gate changes hands", Self { gate, ..*self })));
    }
}
