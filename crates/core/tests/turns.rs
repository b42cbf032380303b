//! Who has had its turn: how long it may come straight back, and past whom.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use robust_lock_core::{Manager, Refusal, monotonic_ns};
use support::place::{Place, take};
use support::{
    GATES_AT, Peer, TURN_BEGAN_AT, WOKEN_AT, open, patch, read, serve, slot_at, until, watchdog,
};

/// `open PATH`, `take`.
#[test]
fn child_entry() {
    let mut manager: Option<Manager> = None;
    serve(|words| {
        match words[0] {
            "open" => manager = Some(open(Path::new(words[1]), None)),
            _ => {
                manager.unwrap().retrieve(0).unwrap();
                take(manager.unwrap().lock(0).unwrap());
            }
        }
        "done".to_owned()
    });
}

/// Whether somebody is asleep at a gate, as its lock word says.
fn sleeps_at_gate(place: &Place) -> bool {
    let path = place.segment.path();
    let word = slot_at(0) + GATES_AT[0] + support::word_offset(path);
    u32::from_ne_bytes(read(path, word)) >> 31 == 1
}

/// `S` asleep, `T` stopped ...: of a process or a thread.
fn state_of(tid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

#[test]
fn a_hand_over_passes_the_lock_on_only_if_nobody_stands_at_the_gate() {
    let place = Place::new("hand-over");
    assert_eq!(place.lock.hand_over(false), Err(Refusal::NotHeld));
    let first = place.lock.acquire(None, &mut || true).unwrap();
    let second = place.lock.hand_over(false).unwrap();
    assert_eq!((second.token, second.owner_died), (first.token + 1, false));
    assert!(place.lock.hand_over(true).unwrap().owner_died, "not repaired");
    assert!(!place.lock.hand_over(false).unwrap().owner_died);
    place.close(0);
    assert_eq!(place.lock.hand_over(false), Err(Refusal::Busy));
    place.open(0);
    place.lock.release(false).unwrap();
}

/// Timed only in that a quantum is short: whatever it was too late for is done again.
#[test]
fn whoever_has_had_its_turn_may_come_straight_back_for_a_quantum() {
    let place = Place::new("quantum");
    let lock = place.lock;
    lock.acquire(None, &mut || true).unwrap();
    lock.release(false).unwrap();
    place.close(0);
    assert_eq!(lock.try_in_turn(), Err(Refusal::Busy), "nobody waited: that was no turn");
    until("it comes back, twice, and passes the lock on within", || {
        lock.try_acquire().unwrap();
        let all = (0..2).all(|_| {
            lock.release(false).unwrap();
            lock.try_in_turn().is_ok()
        });
        let passed_on = all && lock.hand_over(false).is_ok();
        if all {
            lock.release(false).unwrap();
        }
        passed_on
    });
    for _ in 0..20 {
        lock.try_acquire().unwrap();
        lock.release(false).unwrap();
        let begun = Instant::now();
        let mut asked_after = Duration::ZERO;
        while lock.try_in_turn().is_ok() {
            lock.release(false).unwrap();
            assert!(asked_after < Duration::from_millis(1), "however often it comes back, it ends");
            asked_after = begun.elapsed();
        }
    }
    place.open(0);
}

#[test]
fn a_quantum_is_longer_as_long_as_nobody_is_asleep_at_main() {
    let place = Place::new("long-quantum");
    let (lock, done) = (place.lock, AtomicBool::new(false));
    place.close(0);
    // A turn, in which it comes back until that is over: how long that was.
    let quantum = || {
        let begun = Instant::now();
        lock.try_acquire().unwrap();
        lock.release(false).unwrap();
        while lock.try_in_turn().is_ok() {
            lock.release(false).unwrap();
        }
        begun.elapsed()
    };
    for _ in 0..20 {
        assert!(quantum() >= Duration::from_millis(1));
    }
    std::thread::scope(|scope| {
        // As a thread that answers an early offer: it waits for main itself.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if lock.acquire_past_gate(60_000_000_000, &mut || true).is_ok() {
                    lock.release(false).unwrap();
                }
            }
        });
        let path = place.segment.path();
        let word = support::word_offset(path) + slot_at(0);
        let sleeps = || u32::from_ne_bytes(read(path, word)) >> 31 == 1;
        // Told when the other one has ended, which it would not if this were to panic.
        let mut came_back = 0;
        for _ in 0..100 {
            while lock.try_acquire().is_err() {
                std::thread::yield_now();
            }
            let begun = Instant::now();
            while !sleeps() || begun.elapsed() < Duration::from_micros(110) {
                std::thread::yield_now();
            }
            lock.release(false).unwrap();
            came_back += u32::from(lock.try_in_turn().is_ok_and(|_| lock.release(false).is_ok()));
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(came_back, 0, "somebody is there, and 100 µs are over");
    });
    place.open(0);
}

#[test]
fn nobody_comes_back_past_an_offer() {
    let place = Place::new("past-an-offer");
    let (lock, round, begun) = (place.lock, AtomicU32::new(0), Instant::now());
    // No sleep: the quantum would be over.
    let reach = |next: u32| {
        while round.load(Ordering::Acquire) < next {
            assert!(begun.elapsed() < watchdog(), "not in time: round {next}");
            std::thread::yield_now();
        }
    };
    let mut came_back = 0;
    const ROUNDS: u32 = 500;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in (0..ROUNDS).map(|i| i * 4) {
                reach(at);
                let won = lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap();
                round.store(at + 1, Ordering::Release);
                reach(at + 2);
                won.open_gate();
                let won = lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap();
                round.store(at + 3, Ordering::Release);
                reach(at + 4);
                won.open_gate();
            }
        });
        for at in (0..ROUNDS).map(|i| i * 4) {
            reach(at + 1);
            lock.try_acquire().unwrap();
            lock.release(false).unwrap();
            round.store(at + 2, Ordering::Release);
            reach(at + 3);
            came_back += u32::from(lock.try_in_turn().is_ok_and(|_| lock.release(false).is_ok()));
            round.store(at + 4, Ordering::Release);
        }
    });
    assert_eq!(came_back, 0);
}

#[test]
fn who_has_held_the_lock_for_long_lets_the_next_ones_pass() {
    let place = Place::new("let-pass");
    let lock = place.lock;
    place.close(0);
    let (mut seen, begun) = (0, Instant::now());
    while seen < 10 {
        assert!(begun.elapsed() < watchdog(), "not ten times in time");
        lock.try_acquire().unwrap();
        std::thread::sleep(Duration::from_millis(9));
        lock.release(false).unwrap();
        let next = Instant::now();
        std::thread::scope(|scope| {
            // The next one, in its turn.
            scope.spawn(|| {
                lock.try_acquire().unwrap();
                lock.release(false).unwrap();
            });
        });
        let back = Instant::now();
        lock.acquire(Some(0.0), &mut || true).unwrap();
        let passed = back.elapsed();
        lock.release(false).unwrap();
        // On a busy machine the next one's turn may have been too long ago.
        if next.elapsed() < Duration::from_millis(8) {
            assert!(passed >= Duration::from_micros(300), "{passed:?}");
            seen += 1;
        }
    }
    place.open(0);
}

/// A process that has been woken for the gate, which is free again, and does not run; this thread has had a turn, and
/// main is free, too. (Main is held until then: at a free one the gate would be passed over.)
fn call_and_stop(place: &Place) -> Peer {
    let mut woken = Peer::new();
    woken.ask(&format!("open {}", place.segment.path().display()));
    let won = place.lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap();
    place.lock.try_acquire().unwrap();
    woken.tell("take");
    until("it is asleep at the gate", || sleeps_at_gate(place));
    woken.signal(Signal::SIGSTOP);
    until("it is stopped", || state_of(woken.child.id()) == 'T');
    won.open_gate();
    place.lock.release(false).unwrap();
    assert_eq!(place.gate_owner(0), 0, "free");
    woken
}

/// Whether somebody has been woken for the gate.
fn is_called(place: &Place) -> bool {
    u32::from_ne_bytes(read(place.segment.path(), slot_at(0) + WOKEN_AT)) != 0
}

/// It may come back for 1 ms, and after 10 ms nobody is waited for any more: so it is tried again if the test itself was
/// late.
#[test]
fn a_turn_ends_at_a_free_gate_if_the_one_who_was_woken_for_it_does_not_come() {
    let place = Place::new("woken");
    let lock = place.lock;
    let ends = || {
        let mut woken = call_and_stop(&place);
        let begun = Instant::now();
        let mut ends = false;
        while !ends && is_called(&place) && begun.elapsed() < Duration::from_millis(100) {
            ends = lock.try_in_turn().and_then(|_| lock.release(false)) == Err(Refusal::Busy);
        }
        take(lock);
        woken.signal(Signal::SIGCONT);
        assert_eq!(woken.hear(), "done");
        ends
    };
    assert!((0..20).any(|_| ends()));
}

/// With musl the lock word goes on to say that somebody sleeps there.
#[test]
fn the_mark_of_one_who_was_woken_and_killed_falls_with_the_next_turn() {
    let place = Place::new("woken-killed");
    let lock = place.lock;
    call_and_stop(&place).kill();
    assert!(is_called(&place));
    for _ in 0..3 {
        lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap().open_gate();
        assert!(!is_called(&place));
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(5) {
        assert!(lock.try_in_turn().is_ok(), "nobody stands at the gate, nor was called to it");
        lock.release(false).unwrap();
    }
}

#[test]
fn nobody_is_waited_for_whose_turn_was_long_ago() {
    let place = Place::new("long-ago");
    patch(place.segment.path(), slot_at(0) + WOKEN_AT, &1u32.to_ne_bytes());
    place.lock.try_in_turn().unwrap();
    place.lock.release(false).unwrap();
    assert!(!is_called(&place));
}

#[test]
fn a_turn_that_has_not_begun_yet_is_over() {
    let place = Place::new("not-begun");
    let hour_from_now = monotonic_ns() + 3_600_000_000_000;
    patch(place.segment.path(), slot_at(0) + TURN_BEGAN_AT, &hour_from_now.to_ne_bytes());
    patch(place.segment.path(), slot_at(0) + WOKEN_AT, &1u32.to_ne_bytes());
    place.lock.try_in_turn().unwrap();
    place.lock.release(false).unwrap();
    assert!(!is_called(&place), "nobody's clock goes back that far");
}

#[test]
fn who_is_passed_over_at_the_gate_is_called_no_more() {
    let place = Place::new("passed-over");
    place.close(0);
    patch(place.segment.path(), slot_at(0) + WOKEN_AT, &1u32.to_ne_bytes());
    take(place.lock);
    assert_eq!(place.turn(), 1);
    assert!(!is_called(&place));
    place.open(0);
}
