//! The slow path at its corners: gates whose holders do not run, waits that are stopped, committers that
//! die.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use robust_lock_core::Refusal;
use support::place::{Place, gate_owner, take};
use support::{GATES_AT, Peer, TURN_AT, WOKEN_AT, open, patch, read, serve, slot_at, until};

/// `open PATH`; `retrieve PATH ID`.
#[test]
fn child_entry() {
    serve(|words| {
        let manager = open(Path::new(words[1]), None);
        if words[0] == "retrieve" {
            manager.retrieve(words[2].parse().unwrap()).unwrap();
        }
        "done".to_owned()
    });
}

#[test]
fn a_gate_whose_holder_does_not_run_is_passed_over() {
    let place = Place::new("passed-over");
    assert_eq!(place.turn(), 0);
    place.close(0);
    place.take();
    assert_eq!(place.turn() % 3, 1, "gate b serves");
    place.close(1);
    place.take();
    assert_eq!(place.turn() % 3, 2, "none serves");
    let before = place.turn();
    place.take();
    assert_eq!(place.turn(), before, "and main alone is waited for");
    // A gate that opens again is put back to work by who waits.
    std::thread::scope(|scope| {
        place.lock.acquire(None, &mut || true).unwrap();
        let lock = place.lock;
        let waiter = scope.spawn(move || take(lock));
        place.open(0);
        until("gate a serves", || place.turn().is_multiple_of(3));
        place.lock.release(false).unwrap();
        waiter.join().unwrap();
    });
    place.open(1);
    place.take();
}

#[test]
fn a_wait_that_is_stopped_leaves_its_gate_open() {
    let place = Place::new("stopped-wait");
    let (stop, lock, path) = (AtomicBool::new(false), place.lock, place.segment.path());
    std::thread::scope(|scope| {
        place.lock.acquire(None, &mut || true).unwrap();
        for _ in 0..3 {
            stop.store(false, Ordering::Relaxed);
            // Looked at before the thread ends, which would open any gate.
            let waiter = scope.spawn(|| {
                let waited = lock.acquire(None, &mut || !stop.load(Ordering::Relaxed));
                (waited, gate_owner(path, 0))
            });
            until("it stands at the gate", || place.gate_owner(0) != 0);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(waiter.join().unwrap(), (Err(Refusal::Stopped), 0));
            let helper = scope.spawn(move || {
                (lock.wait_for_turn(&mut || false, &mut || true).is_err(), gate_owner(path, 0))
            });
            assert_eq!(helper.join().unwrap(), (true, 0));
        }
        place.lock.release(false).unwrap();
    });
}

#[test]
fn who_is_to_stop_does_not_enter_at_the_end_of_its_time() {
    let place = Place::new("stopped-late");
    place.close(0);
    // No time at all: the last try comes at once, and main is free.
    assert_eq!(place.lock.acquire(Some(0.0), &mut || false), Err(Refusal::Stopped));
    assert!(!place.lock.is_held());
    assert!(place.lock.acquire(Some(0.0), &mut || true).is_ok());
    place.lock.release(false).unwrap();
    place.open(0);
}

#[test]
fn behind_its_helpers_gate_a_thread_waits_for_main_itself() {
    let place = Place::new("early");
    let (lock, path) = (place.lock, place.segment.path());
    let accepted = AtomicBool::new(false);
    lock.acquire(None, &mut || true).unwrap();
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            // The gate is this thread's, and closed until it is told that the other one has main.
            let mut early = || {
                until("it is accepted", || accepted.load(Ordering::Acquire));
                false
            };
            let waited = lock.wait_for_turn(&mut || true, &mut early);
            (waited.err(), gate_owner(path, 0))
        });
        until("the helper has the gate", || place.gate_owner(0) != 0);
        let waiter = scope.spawn(move || {
            // Who is to stop has waited, and does not enter.
            let stopped = lock.acquire_past_gate(60_000_000_000, &mut || false);
            let entered = lock.acquire_past_gate(60_000_000_000, &mut || true).unwrap();
            let closed = gate_owner(path, 0) != 0;
            lock.release(false).unwrap();
            (stopped, entered, closed)
        });
        until("it waits", || place.is_main_awaited());
        lock.release(false).unwrap();
        let (stopped, entered, closed) = waiter.join().unwrap();
        assert_eq!(stopped, Err(Refusal::Stopped));
        assert!(!entered.owner_died && closed);
        accepted.store(true, Ordering::Release);
        assert_eq!(helper.join().unwrap(), (Some(Refusal::Stopped), 0));
        // Not for longer than it was told.
        lock.acquire(None, &mut || true).unwrap();
        let late = scope.spawn(move || lock.acquire_past_gate(1_000_000, &mut || true));
        assert_eq!(late.join().unwrap(), Err(Refusal::Busy));
        lock.release(false).unwrap();
    });
}

#[test]
fn a_helpers_turn_keeps_the_gate_and_leaves_main() {
    let place = Place::new("helper");
    let won = place.lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap();
    assert_ne!(place.gate_owner(0), 0);
    assert!(!place.lock.is_held());
    // The thread that it waits for takes main past the gate.
    place.lock.try_acquire().unwrap();
    won.open_gate();
    assert_eq!(place.gate_owner(0), 0);
    place.lock.release(false).unwrap();
}

#[test]
fn whose_offer_was_in_vain_waits_on_behind_the_same_gate() {
    let place = Place::new("in-vain");
    let (lock, path) = (place.lock, place.segment.path());
    let offered = AtomicBool::new(false);
    let again = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            let won = lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap();
            offered.store(true, Ordering::Release);
            until("somebody was faster", || again.load(Ordering::Acquire));
            let won = lock.wait_again(won, &mut || true).ok().unwrap().unwrap();
            let free = !lock.is_held();
            let mine = gate_owner(path, 0);
            // A gate that serves no more is of no use: to be queued for anew.
            patch(path, slot_at(0) + TURN_AT, &1_u32.to_ne_bytes());
            let anew = lock.wait_again(won, &mut || true).ok().unwrap();
            (free, mine, anew.is_none(), gate_owner(path, 0))
        });
        until("it has its turn", || offered.load(Ordering::Acquire));
        let holder = place.gate_owner(0);
        lock.try_acquire().unwrap();
        again.store(true, Ordering::Release);
        until("it sleeps on main", || place.is_main_awaited());
        assert_eq!(place.gate_owner(0), holder, "it has the gate still");
        lock.release(false).unwrap();
        assert_eq!(helper.join().unwrap(), (true, holder, true, 0));
    });
}

/// Sets it in the end, if that is a panic, too: a scope waits for its threads.
struct InTheEnd<'a>(&'a AtomicBool);

impl Drop for InTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Another thread waits at the first gate, which somebody has, and its slices have grown to 0.3 s at least; the second gate is
/// closed. What `act` gives, which is told when that thread has looked up.
fn beside_a_waiter<R>(place: &Place, act: impl FnOnce(&dyn Fn() -> Vec<Instant>) -> R) -> R {
    let (lock, stop, looks) = (place.lock, AtomicBool::new(false), Mutex::new(Vec::new()));
    place.close(1);
    let given = std::thread::scope(|scope| {
        let _stop = InTheEnd(&stop);
        scope.spawn(|| {
            let waited = lock.acquire(None, &mut || {
                looks.lock().unwrap().push(Instant::now());
                !stop.load(Ordering::Acquire)
            });
            assert_eq!(waited.err(), Some(Refusal::Stopped));
        });
        let looks = || looks.lock().unwrap().clone();
        until("its slices have grown", || looks().len() >= 3);
        act(&looks)
    });
    place.open(1);
    given
}

#[test]
fn who_comes_to_another_gate_looks_soon() {
    until("it looks in 62 ms", || {
        let place = Place::new("another-gate");
        // So that nobody suspects the gate's holder.
        place.lock.try_acquire().unwrap();
        place.close(0);
        let soon = beside_a_waiter(&place, |looks| {
            let before = looks().len();
            patch(place.segment.path(), slot_at(0) + TURN_AT, &1_u32.to_ne_bytes());
            until("it looks, and once more", || looks().len() >= before + 2);
            looks()[before + 1] - looks()[before]
        });
        place.open(0);
        place.lock.release(false).unwrap();
        soon < Duration::from_millis(250)
    });
}

/// Whether the mark stays as it is when the first gate, which serves no more, is opened to one who sleeps there. None: that one
/// has looked up before.
fn leaves_alone(mark: u32) -> Option<bool> {
    let place = Place::new("old-gate");
    let (lock, path, leave) = (place.lock, place.segment.path(), AtomicBool::new(false));
    lock.try_acquire().unwrap();
    let seen = std::thread::scope(|scope| {
        let _leave = InTheEnd(&leave);
        scope.spawn(|| {
            let go_on = &mut || !leave.load(Ordering::Acquire);
            assert!(lock.wait_for_turn(go_on, &mut || true).is_err());
        });
        until("somebody has the gate", || place.gate_owner(0) != 0);
        beside_a_waiter(&place, |looks| {
            let before = looks().len();
            patch(path, slot_at(0) + WOKEN_AT, &mark.to_ne_bytes());
            patch(path, slot_at(0) + TURN_AT, &1_u32.to_ne_bytes());
            leave.store(true, Ordering::Release);
            until("it is opened", || place.gate_owner(0) == 0);
            let in_time = looks().len() == before;
            until("the other one has had it, and waits at the next", || looks().len() > before);
            let left = u32::from_ne_bytes(read(path, slot_at(0) + WOKEN_AT));
            in_time.then_some(left == mark)
        })
    });
    lock.release(false).unwrap();
    seen
}

#[test]
fn a_gate_that_serves_no_more_leaves_the_mark_alone() {
    for mark in [0, 1] {
        until("it has the gate before its slice ends", || {
            leaves_alone(mark).is_some_and(|alone| {
                assert!(alone, "{mark}");
                true
            })
        });
    }
}

#[test]
fn a_committer_that_dies_leaves_an_unpublished_chunk() {
    let place = Place::new("committer");
    let path = place.segment.path();
    let whole = |chunk: u32| {
        for id in [chunk * 256, chunk * 256 + 255] {
            place.manager.retrieve(id).unwrap();
            let lock = place.manager.lock(id).unwrap();
            let acquired = lock.acquire(Some(60_000.0), &mut || true).unwrap();
            assert!(acquired.token > 1 << 48, "from the creation time on: {acquired:?}");
            lock.release(false).unwrap();
        }
    };
    // Killed as soon as its pages are there: in the middle of the slots, or just after them.
    let blocks = || std::fs::metadata(path).unwrap().blocks();
    for chunk in 1..=4 {
        let mut child = Peer::new();
        let before = blocks();
        child.tell(&format!("retrieve {} {}", path.display(), chunk * 256));
        until("its pages are there", || blocks() > before);
        child.kill();
        whole(chunk);
    }
}

/// A wake-up that is lost (musl loses them in a kill) is a lock word that becomes free while somebody
/// sleeps on it. So it is made free here under the sleepers, in every place where they can sleep.
#[test]
fn nobody_sleeps_on_a_lock_that_became_free_without_a_wake_up() {
    let place = Place::new("lost-wake-up");
    let path = place.segment.path();
    let word = support::word_offset(path) + slot_at(0);
    let [gate_a, gate_b] = GATES_AT.map(|gate| word + gate);
    let taken = place.idle.child.id().to_ne_bytes();
    // What serves, what is closed and stays so, and what is slept on.
    let cases = [
        ("main behind gate a", 0u32, vec![], word),
        ("main behind gate b", 1, vec![], word),
        ("main without a gate", 2, vec![gate_a, gate_b], word),
        ("gate a", 0, vec![], gate_a),
        ("gate b", 1, vec![], gate_b),
    ];
    for (name, turn, closed, slept_on) in cases {
        for helper in [false, true] {
            patch(path, slot_at(0) + TURN_AT, &turn.to_ne_bytes());
            closed.iter().chain([&slept_on]).for_each(|&at| patch(path, at, &taken));
            let lock = place.lock;
            let waiter = std::thread::spawn(move || {
                if helper {
                    lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap().open_gate();
                } else {
                    take(lock);
                }
            });
            // The bit of those who sleep.
            let sleeps = || u32::from_ne_bytes(read(path, slept_on)) >> 31 == 1;
            until(name, sleeps);
            let begun = std::time::Instant::now();
            patch(path, slept_on, &[0; 4]);
            until(name, || waiter.is_finished());
            waiter.join().unwrap();
            println!("{name}, helper {helper}: {} ms", begun.elapsed().as_millis());
            closed.iter().for_each(|&at| patch(path, at, &[0; 4]));
        }
    }
    place.take();
}
