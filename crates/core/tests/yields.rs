//! When the processor is left to those who were woken for a lock: each call of sched_yield(2) is counted, and each nap.
//! That they run then is the kernel's part.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use robust_lock_core::{Lock, Refusal};
use support::place::Place;
use support::{TURN_BEGAN_AT, WOKEN_AT, open, patch, read, serve, slot_at, watchdog, word_offset};

/// From then on in its turn, whoever comes back yields.
const GIVE_WAY: Duration = Duration::from_micros(600);
/// The turn's length as long as nobody is asleep at main.
const TURN: Duration = Duration::from_millis(1);
/// From which time on a hold is a long one.
const LONG_HOLD: Duration = Duration::from_millis(8);

/// `open PATH`.
#[test]
fn child_entry() {
    serve(|words| {
        open(Path::new(words[1]), None);
        "done".to_owned()
    });
}

thread_local! {
    static YIELDS: Cell<u32> = const { Cell::new(0) };
    static NAPS: Cell<u32> = const { Cell::new(0) };
}

/// In the place of libc's: the linker takes what the program itself has.
#[unsafe(no_mangle)]
extern "C" fn sched_yield() -> i32 {
    YIELDS.set(YIELDS.get() + 1);
    // SAFETY: the call has no arguments, and touches no memory.
    unsafe { libc::syscall(libc::SYS_sched_yield) as i32 }
}

/// As above: what the standard library sleeps with, nowadays and before.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: libc::clockid_t,
    flags: libc::c_int,
    time: *const libc::timespec,
    left: *mut libc::timespec,
) -> libc::c_int {
    NAPS.set(NAPS.get() + 1);
    // SAFETY: the caller's arguments, which are the system call's.
    match unsafe { libc::syscall(libc::SYS_clock_nanosleep, clock, flags, time, left) } {
        0 => 0,
        _ => nix::errno::Errno::last_raw(),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(
    time: *const libc::timespec,
    left: *mut libc::timespec,
) -> libc::c_int {
    NAPS.set(NAPS.get() + 1);
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_nanosleep, time, left) as libc::c_int }
}

/// What `act` gives, and how often it has yielded.
fn counted<R>(act: impl FnOnce() -> R) -> (R, u32) {
    let before = YIELDS.get();
    let given = act();
    (given, YIELDS.get() - before)
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

fn patch_turn_began(path: &Path, ns: u64) {
    patch(path, slot_at(0) + TURN_BEGAN_AT, &ns.to_ne_bytes());
}

/// A turn of this thread's, past a closed gate, which began after the first instant and before the second.
fn turn(lock: Lock) -> (Instant, Instant) {
    let before = Instant::now();
    lock.try_acquire().unwrap();
    let after = Instant::now();
    lock.release(false).unwrap();
    (before, after)
}

#[test]
fn they_are_counted() {
    assert_eq!(counted(std::thread::yield_now), ((), 1));
    let before = NAPS.get();
    std::thread::sleep(Duration::from_micros(1));
    assert_eq!(NAPS.get() - before, 1);
}

/// Somebody has been woken for the gate, as it seems, and the turn that goes on begins now. For 10 ms that is believed.
fn call(path: &Path) {
    patch_turn_began(path, monotonic_ns());
    patch(path, slot_at(0) + WOKEN_AT, &1u32.to_ne_bytes());
}

#[test]
fn who_comes_to_a_gate_that_somebody_was_woken_for_lets_that_one_go_first() {
    let place = Place::new("give-way");
    let wait = || place.lock.wait_for_turn(&mut || true, &mut || true).ok().unwrap().open_gate();
    assert_eq!(counted(wait), ((), 0));
    call(place.segment.path());
    assert_eq!(counted(wait), ((), 1));
    assert_eq!(counted(wait), ((), 0), "the mark has fallen");
}

#[test]
fn whose_time_is_over_yields_to_nobody() {
    let place = Place::new("no-time");
    let (lock, path) = (place.lock, place.segment.path());
    let begun = Instant::now();
    lock.try_acquire().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let comes = |timeout_ms| {
                call(path);
                let (got, yields) = counted(|| lock.acquire(Some(timeout_ms), &mut || true).err());
                assert_eq!(got, Some(Refusal::TimedOut), "{timeout_ms} ms");
                yields
            };
            // Who gets no processor for 10 ms comes too late to believe in the call.
            loop {
                assert!(begun.elapsed() < watchdog(), "nobody yields");
                assert_eq!(comes(0.0), 0, "no time");
                match comes(20.0) {
                    0 => {}
                    yields => break assert_eq!(yields, 1, "20 ms"),
                }
            }
        });
    });
    lock.release(false).unwrap();
}

/// Nobody is asleep at main then.
#[test]
fn late_in_a_turn_the_processor_is_left_to_whoever_has_the_gate() {
    let place = Place::new("late-in-a-turn");
    let lock = place.lock;
    let (mut early, mut late, begun) = (0, 0, Instant::now());
    while early < 20 || late < 20 {
        assert!(
            begun.elapsed() < watchdog(),
            "{early} early and {late} late in a turn, not in time"
        );
        place.close(0);
        let (before, after) = turn(lock);
        loop {
            let waited = after.elapsed();
            let (back, yields) = counted(|| lock.try_in_turn().is_ok());
            if before.elapsed() < GIVE_WAY {
                assert_eq!(yields, 0, "no later than {:?}", before.elapsed());
                early += 1;
            } else if waited >= GIVE_WAY {
                assert_eq!(yields, 1, "after {waited:?} at least");
                // In its turn still; or that is over, after the yield or before it.
                late += 1;
            }
            if !back {
                break;
            }
            lock.release(false).unwrap();
        }
        place.open(0);
    }
}

/// Nobody is asleep at main here: the next one has yet to come there. Who has had no turn yields to nobody.
#[test]
fn who_comes_back_when_his_turn_is_over_lets_the_next_one_run() {
    let place = Place::new("turn-over");
    let lock = place.lock;
    place.close(0);
    let (_, begun) = turn(lock);
    while begun.elapsed() < TURN {}
    for yields in [1, 0, 0] {
        assert_eq!(counted(|| lock.try_in_turn().err()), (Some(Refusal::Busy), yields));
    }
    let other = || assert_eq!(counted(|| lock.try_in_turn().err()), (Some(Refusal::Busy), 0));
    std::thread::scope(|scope| scope.spawn(other).join().unwrap());
    place.open(0);
    // Nobody stands there: nobody is let pass.
    assert_eq!(counted(|| lock.try_in_turn().is_ok()), (true, 0));
    lock.release(false).unwrap();
}

/// As its lock word says. The turn is over after 100 µs then.
#[test]
fn who_comes_back_lets_the_one_run_who_was_asleep_at_main() {
    let place = Place::new("asleep");
    let (lock, path) = (place.lock, place.segment.path());
    place.close(0);
    let begun = Instant::now();
    lock.try_acquire().unwrap();
    let word = slot_at(0) + word_offset(path);
    let owned = u32::from_ne_bytes(read(path, word));
    patch(path, word, &(owned | 1 << 31).to_ne_bytes());
    while begun.elapsed() < Duration::from_micros(200) {}
    lock.release(false).unwrap();
    assert_eq!(counted(|| lock.try_in_turn().err()), (Some(Refusal::Busy), 1));
    place.open(0);
}

/// How often a thread naps that comes back after a long hold of its own, when the next one's has begun then.
fn naps(place: &Place, next_began: impl FnOnce() -> u64) -> u32 {
    let lock = place.lock;
    let (_, after) = turn(lock);
    while after.elapsed() < LONG_HOLD {}
    std::thread::scope(|scope| scope.spawn(|| turn(lock)).join().unwrap());
    patch_turn_began(place.segment.path(), next_began());
    let before = NAPS.get();
    lock.acquire(Some(0.0), &mut || true).unwrap();
    lock.release(false).unwrap();
    NAPS.get() - before
}

#[test]
fn after_a_long_hold_a_thread_naps_once_but_not_for_a_turn_that_has_yet_to_begin() {
    let place = Place::new("nap");
    place.close(0);
    let begun = Instant::now();
    // Who gets no processor for 8 ms comes too late to nap.
    loop {
        assert!(begun.elapsed() < watchdog(), "nobody naps");
        match naps(&place, monotonic_ns) {
            0 => {}
            naps => break assert_eq!(naps, 1),
        }
    }
    assert_eq!(naps(&place, || monotonic_ns() + 3_600_000_000_000), 0);
    place.open(0);
}
