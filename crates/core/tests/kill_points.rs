//! A process is killed at every instruction of taking and releasing a lock, one after the other; those
//! of the C library count. See support/points.rs for what is looked at after each death.
//!
//! All steps of the short operations each time, a part of the long ones; `npm run soak -- kill-points` leaves
//! out none.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/jump.rs"]
mod jump;
#[path = "support/points.rs"]
mod points;
#[path = "support/scene.rs"]
mod scene;
mod support;
#[path = "support/victim.rs"]
mod victim;

use points::{Earlier, Points, Scenario, can_run};
use robust_lock_core::{Lock, Manager, Refusal};
use scene::{Crew, View};
use victim::mark;

/// Where main stands in a slot.
const MAIN: u64 = 0;

#[test]
fn child_entry() {
    scene::child();
}

fn lock(_: Manager, lock: Lock) {
    mark();
    lock.acquire(None, &mut || true).unwrap();
    mark();
}

fn unlock(_: Manager, lock: Lock) {
    lock.acquire(None, &mut || true).unwrap();
    mark();
    lock.release(false).unwrap();
    mark();
}

const ALONE: Scenario = Scenario {
    body: &lock,
    before: &|_, _| {},
    ready: &|_, _| {},
    asleep: &[],
    earlier: Earlier::No,
    done: &|now, victim| now.owner == victim && now.is_dirty(),
    points: Points::All,
};

const UNLOCK: Scenario =
    Scenario { body: &unlock, done: &|now, victim| now.owner != victim, ..ALONE };

/// musl spins a hundred times before it sleeps: two thousand steps, nearly all alike.
const OF_A_WAIT: Points = if cfg!(target_env = "musl") { Points::Some(600) } else { Points::All };

const SOME: Points = Points::Some(40);

#[test]
fn killed_anywhere_in_lock() {
    if can_run() {
        ALONE.run("lock");
    }
}

#[test]
fn killed_anywhere_in_lock_while_main_is_held() {
    if can_run() {
        let held = Scenario {
            before: &|crew, _| {
                crew.holder.lock();
            },
            asleep: &[&|crew, _| crew.holder.release()],
            points: OF_A_WAIT,
            ..ALONE
        };
        held.run("lock, main held");
        let queue = Scenario {
            asleep: &[&|crew, _| crew.waiter.take(), &|crew, _| crew.holder.release()],
            ..held
        };
        queue.run_with("lock, main held, a waiter behind", &[false]);
    }
}

#[test]
fn killed_anywhere_in_lock_while_the_gate_is_held() {
    if can_run() {
        let queue = Scenario {
            before: &|crew, view| crew.close_gate(view),
            asleep: &[&|crew, _| crew.holder.release()],
            points: OF_A_WAIT,
            ..ALONE
        };
        queue.run("lock, main and gate held");
    }
}

#[test]
fn killed_anywhere_in_lock_after_a_death() {
    if can_run() {
        let inside = Scenario {
            before: &|crew, view| crew.die(view, true),
            earlier: Earlier::Kept,
            ..ALONE
        };
        inside.run("lock after a death inside");
        let outside = Scenario { before: &|crew, view| crew.die(view, false), ..ALONE };
        outside.run("lock after a death outside");
    }
}

#[test]
fn killed_anywhere_in_unlock() {
    if can_run() {
        UNLOCK.run("unlock");
        let waiter = Scenario { ready: &|crew, _| crew.waiter.take(), ..UNLOCK };
        waiter.run_with("unlock, main waited for", &[false]);
        let queue = Scenario {
            ready: &|crew, _| {
                crew.second.take();
                crew.waiter.take();
            },
            ..UNLOCK
        };
        queue.run_with("unlock, main and gate waited for", &[false]);
    }
}

#[test]
fn killed_anywhere_in_unlock_after_a_death() {
    if can_run() {
        let after = Scenario {
            before: &|crew, view| crew.die(view, true),
            earlier: Earlier::Death,
            ..UNLOCK
        };
        after.run("markConsistent and unlock");
        let waiter = Scenario { ready: &|crew, _| crew.waiter.take(), ..after };
        waiter.run_with("markConsistent and unlock, waited for", &[false]);
        let kept = Scenario {
            body: &|_, lock| {
                lock.acquire(None, &mut || true).unwrap();
                mark();
                lock.release(true).unwrap();
                mark();
            },
            earlier: Earlier::Kept,
            ..waiter
        };
        kept.run_with("unlock without a repair, waited for", &[false]);
    }
}

#[test]
fn killed_anywhere_in_try_lock() {
    if can_run() {
        let try_lock = Scenario {
            body: &|_, lock| {
                mark();
                lock.try_acquire().unwrap();
                mark();
            },
            ..ALONE
        };
        try_lock.run("tryLock");
        let after = Scenario {
            before: &|crew, view| crew.die(view, true),
            earlier: Earlier::Kept,
            ..try_lock
        };
        after.run("tryLock after a death");
        let refused = Scenario {
            body: &|_, lock| {
                mark();
                assert_eq!(lock.try_acquire(), Err(Refusal::Busy));
                mark();
            },
            before: &|crew, _| {
                crew.holder.lock();
            },
            done: &|now, victim| now.owner != victim,
            points: SOME,
            ..try_lock
        };
        refused.run("tryLock of a held lock");
        let in_turn = Scenario {
            body: &|_, lock| {
                mark();
                lock.try_in_turn().unwrap();
                mark();
            },
            ..try_lock
        };
        in_turn.run("tryLock in turn");
    }
}

#[test]
fn killed_anywhere_in_a_hand_over() {
    if can_run() {
        let hand_over = Scenario {
            body: &|_, lock| {
                lock.acquire(None, &mut || true).unwrap();
                mark();
                lock.hand_over(false).unwrap();
                mark();
            },
            ..ALONE
        };
        hand_over.run("hand-over");
    }
}

/// A helper's turn: the gate and main, main given back, the gate kept, and opened.
fn turn(_: Manager, lock: Lock) {
    mark();
    lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap().open_gate();
    mark();
}

const GATES: Scenario = Scenario {
    body: &turn,
    before: &|crew, view| crew.close_gate(view),
    ready: &|_, _| {},
    asleep: &[&|crew, _| crew.waiter.take(), &|crew, _| crew.holder.release()],
    earlier: Earlier::No,
    done: &|now, victim| now.owner != victim && now.gates.iter().all(|gate| *gate != victim),
    points: SOME,
};

#[test]
fn killed_at_the_gates() {
    if can_run() {
        let alone = Scenario { before: &|_, _| {}, asleep: &[], ..GATES };
        alone.run("a helper's turn");
        GATES.run_with("a helper's turn in a queue", &[false]);
        let at_b = |crew: &mut Crew, view: &View| {
            crew.set_turn(1);
            crew.close_gate(view);
        };
        let b = Scenario { before: &at_b, ..GATES };
        b.run_with("a helper's turn in a queue at gate b", &[false]);
        let lock_b = Scenario { body: &lock, done: &|now, victim| now.owner == victim, ..b };
        lock_b.run_with("lock in a queue at gate b", &[false]);
    }
}

#[test]
fn killed_while_it_passes_over_a_gate() {
    if can_run() {
        let stopped = |crew: &mut Crew, view: &View| crew.stop_at_gate(view, 0);
        let past = Scenario {
            body: &lock,
            before: &stopped,
            asleep: &[],
            done: &|now, victim| now.owner == victim,
            ..GATES
        };
        past.run("lock past a gate whose holder is stopped");
        let both = |crew: &mut Crew, view: &View| {
            crew.set_turn(2);
            crew.stop_at_gate(view, 0);
            crew.stop_at_gate(view, 1);
        };
        let none = Scenario { before: &both, ..past };
        none.run("lock while no gate serves");
    }
}

#[test]
fn killed_anywhere_in_a_recovery() {
    if can_run() {
        let lost = Scenario {
            before: &|crew, view| crew.lose(view, MAIN),
            done: &|now, victim| now.owner == victim,
            points: SOME,
            ..ALONE
        };
        lost.run("lock after a lost death");
        let try_lost = Scenario {
            body: &|_, lock| {
                mark();
                lock.try_acquire().unwrap();
                mark();
            },
            points: Points::Some(100),
            ..lost
        };
        try_lost.run("tryLock after a lost death");
        let stranger = Scenario {
            before: &|crew, view| crew.lose_to_a_stranger(view, MAIN),
            points: Points::Some(20),
            ..try_lost
        };
        stranger.run("tryLock after a lost death, the TID a stranger's");
        for gate in support::GATES_AT {
            let before = |crew: &mut Crew, view: &View| {
                crew.set_turn((gate == support::GATES_AT[1]).into());
                crew.lose(view, gate);
            };
            let lost_gate = Scenario { before: &before, points: SOME, ..lost };
            lost_gate.run("lock after a lost death at a gate");
        }
    }
}
