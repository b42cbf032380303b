//! Several processes, killed and stopped at the worst instants.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod child;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use robust_lock_core::{Acquired, Code, Handle, Lock, MAX_HELD, Manager, Refusal};
use support::{Peer, TempSegment, open, until};

#[test]
fn child_entry() {
    child::obey();
}

fn died(answer: &str) -> bool {
    assert!(answer.starts_with("got "), "{answer}");
    answer.ends_with("true")
}

fn peer(segment: &TempSegment) -> Peer {
    let mut peer = Peer::new();
    assert_eq!(peer.ask(&format!("open {}", segment.path().display())), "open");
    peer
}

fn allocated(segment: &TempSegment) -> (Manager, Lock, u32) {
    let manager = segment.manager();
    let id = manager.allocate().unwrap().id;
    (manager, manager.lock(id).unwrap(), id)
}

/// Without a timeout, whose last try would mend what the waiting has missed.
fn acquire(lock: &Lock) -> Acquired {
    let begun = Instant::now();
    lock.acquire(None, &mut || begun.elapsed() < Duration::from_secs(60)).unwrap()
}

/// Whether somebody waits behind a gate of lock 0.
fn is_waited_for(path: &Path) -> bool {
    let word = support::word_offset(path);
    let owner = |gate| u32::from_ne_bytes(support::read(path, support::slot_at(0) + gate + word));
    support::GATES_AT.iter().any(|&gate| owner(gate) & 0x3fff_ffff != 0)
}

#[test]
fn eight_processes_exclude_each_other() {
    let segment = TempSegment::new("exclude");
    let counter = TempSegment::new("counter");
    let (_, _, id) = allocated(&segment);
    std::fs::write(counter.path(), "0").unwrap();
    let mut peers: Vec<Peer> = (0..8).map(|_| peer(&segment)).collect();
    for peer in &mut peers {
        peer.tell(&format!("count {id} {} 500", counter.path().display()));
    }
    for peer in &mut peers {
        assert_eq!(peer.hear(), "counted");
    }
    assert_eq!(std::fs::read_to_string(counter.path()).unwrap(), "4000");
}

#[test]
fn a_death_inside_is_told_until_it_is_repaired() {
    let segment = TempSegment::new("death");
    let (manager, lock, _) = allocated(&segment);
    let mut holder = peer(&segment);
    assert!(!died(&holder.ask("lock 0")));
    assert_eq!(manager.locks_held(), [0]);
    assert_eq!(lock.try_acquire(), Err(Refusal::Busy));
    holder.kill();
    // Looking consumes nothing.
    assert_eq!(manager.locks_held(), []);
    assert!(acquire(&lock).owner_died);
    lock.release(true).unwrap();
    assert!(acquire(&lock).owner_died, "released without a repair");
    lock.release(true).unwrap();
    let mut second = peer(&segment);
    assert!(died(&second.ask("lock 0")));
    second.kill();
    assert!(acquire(&lock).owner_died, "the one that was told died, too");
    lock.release(false).unwrap();
    assert!(!acquire(&lock).owner_died, "repaired");
    lock.release(false).unwrap();
}

#[test]
fn a_waiter_has_the_lock_when_its_holder_is_killed() {
    let segment = TempSegment::new("waiter");
    let (_, lock, _) = allocated(&segment);
    let mut holder = peer(&segment);
    holder.ask("lock 0");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let acquired = acquire(&lock);
            lock.release(false).unwrap();
            acquired.owner_died
        });
        until("somebody waits", || is_waited_for(segment.path()));
        holder.kill();
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn a_death_outside_the_section_is_no_alarm() {
    let segment = TempSegment::new("outside");
    let (_, lock, _) = allocated(&segment);
    acquire(&lock);
    let mut waiter = peer(&segment);
    waiter.tell("lock 0");
    until("it waits", || is_waited_for(segment.path()));
    waiter.kill();
    lock.release(false).unwrap();
    assert!(!acquire(&lock).owner_died);
    lock.release(false).unwrap();
    let mut helper = peer(&segment);
    assert_eq!(helper.ask("turn 0"), "my turn");
    assert_eq!(lock.try_in_turn(), Err(Refusal::Busy), "its gate is closed");
    helper.kill();
    assert!(!acquire(&lock).owner_died);
    lock.release(false).unwrap();
}

#[test]
fn a_reallocated_id_starts_clean() {
    let segment = TempSegment::new("clean");
    let (manager, lock, id) = allocated(&segment);
    let mut holder = peer(&segment);
    holder.ask("lock 0");
    holder.kill();
    manager.free(Handle { id, generation: None }).unwrap();
    assert_eq!(manager.allocate().unwrap().id, id);
    assert!(!acquire(&lock).owner_died);
    lock.release(false).unwrap();
}

#[test]
fn a_thread_holds_960_locks_and_its_death_frees_them_all() {
    let segment = TempSegment::new("many");
    let manager = segment.manager();
    let handles: Vec<_> = (0..1024).map(|_| manager.allocate().unwrap()).collect();
    let mut holder = peer(&segment);
    assert_eq!(holder.ask("hold 1000"), MAX_HELD.to_string());
    assert_eq!(holder.ask("try 1000"), "TooManyHeld");
    assert_eq!(manager.locks_held().len(), 960);
    holder.kill();
    for Handle { id, .. } in handles {
        let lock = manager.lock(id).unwrap();
        assert_eq!(lock.try_acquire().unwrap().owner_died, id < MAX_HELD);
        lock.release(false).unwrap();
    }
}

#[test]
fn a_freed_lock_that_is_held_is_not_handed_out() {
    let segment = TempSegment::new("held");
    let (manager, _, id) = allocated(&segment);
    let mut holder = peer(&segment);
    holder.ask("lock 0");
    manager.free(manager.retrieve(id).unwrap()).unwrap();
    assert_eq!(manager.allocate().unwrap().id, 1);
    assert_eq!(holder.ask("allocate"), "Ok(2)");
    let small = TempSegment::new("held-all");
    let manager = open(small.path(), Some(1));
    manager.allocate().unwrap();
    let mut holder = peer(&small);
    holder.ask("lock 0");
    manager.free_all().unwrap();
    let refusal = manager.allocate().unwrap_err();
    assert_eq!((refusal.code, refusal.held, refusal.capacity), (Code::Exhausted, Some(1), Some(1)));
    assert_eq!(holder.ask("release 0 clear"), "Ok(())");
    assert_eq!(manager.allocate().unwrap().id, 0);
}

#[test]
fn a_lock_that_is_freed_and_held_since_the_first_look_is_not_handed_out() {
    let segment = TempSegment::new("churn");
    let manager = open(segment.path(), Some(1));
    let mut other = peer(&segment);
    let spin = |times: u32| (0..times).for_each(|_| std::hint::spin_loop());
    let mut held = 0;
    while held < 1_000 {
        other.tell("churn 100000");
        let answer = loop {
            if let Some(answer) = other.heard() {
                break answer;
            }
            // Perhaps between its look, whether anybody holds the lock, and its claim.
            other.signal(Signal::SIGSTOP);
            let allocated = manager.allocate();
            if let Ok(handle) = allocated {
                let lock = manager.lock(handle.id).unwrap();
                acquire(&lock);
                manager.free(handle).unwrap();
                other.signal(Signal::SIGCONT);
                spin(2_000);
                lock.release(false).unwrap();
                held += 1;
            } else {
                other.signal(Signal::SIGCONT);
            }
            spin(held % 1_000);
        };
        assert_eq!(answer, "let go");
    }
}

#[test]
fn who_is_stopped_at_the_gate_stops_nobody() {
    let segment = TempSegment::new("stopped");
    let (_, lock, _) = allocated(&segment);
    let mut stopped = peer(&segment);
    for round in 0..4 {
        acquire(&lock);
        stopped.tell("lock 0");
        until("it waits", || is_waited_for(segment.path()));
        stopped.signal(Signal::SIGSTOP);
        let mut others: Vec<Peer> = (0..2).map(|_| peer(&segment)).collect();
        lock.release(false).unwrap();
        // A stopped thread may have been given main in that very instant: then it is a holder.
        if lock.acquire(Some(5_000.0), &mut || true).is_ok() {
            lock.release(false).unwrap();
            for other in &mut others {
                assert!(!died(&other.ask("lock 0")), "round {round}");
                other.ask("release 0 clear");
            }
        }
        stopped.signal(Signal::SIGCONT);
        assert!(!died(&stopped.hear()));
        stopped.ask("release 0 clear");
    }
}

#[test]
fn a_wait_can_be_stopped_and_ends_in_time() {
    let segment = TempSegment::new("stop");
    let (_, lock, _) = allocated(&segment);
    let mut holder = peer(&segment);
    holder.ask("lock 0");
    assert_eq!(lock.acquire(Some(0.0), &mut || true), Err(Refusal::TimedOut));
    assert_eq!(lock.acquire(Some(30.0), &mut || true), Err(Refusal::TimedOut));
    assert_eq!(lock.acquire(None, &mut || false), Err(Refusal::Stopped));
    assert!(lock.wait_for_turn(&mut || false, &mut || true).is_err());
    assert!(!is_waited_for(segment.path()), "no gate is left closed");
    assert_eq!(lock.release(false), Err(Refusal::NotHeld));
    holder.ask("release 0 clear");
    acquire(&lock);
    assert_eq!(lock.try_acquire(), Err(Refusal::Own));
    assert_eq!(lock.acquire(None, &mut || true), Err(Refusal::Own));
    lock.release(false).unwrap();
}

#[test]
fn a_forked_copy_is_refused_and_its_parent_holds_on() {
    let segment = TempSegment::new("forked");
    let (_, lock, _) = allocated(&segment);
    assert_eq!(peer(&segment).ask("fork 0"), "Exited(Pid(PID), 42)");
    assert!(!acquire(&lock).owner_died);
    lock.release(false).unwrap();
}

#[test]
fn a_lost_owner_is_healed_and_a_live_one_is_not() {
    let segment = TempSegment::new("lost");
    let path = segment.path();
    let (manager, lock, _) = allocated(&segment);
    let word = support::slot_at(0) + support::word_offset(path);
    let lose = |at: u64, tid: u32| support::patch(path, at, &tid.to_ne_bytes());
    let dead = std::thread::spawn(own_tid).join().unwrap();
    until("its TID is gone", || !Path::new(&format!("/proc/self/task/{dead}")).exists());
    // Nobody has this TID.
    lose(word, dead);
    assert!(!lock.try_acquire().unwrap().owner_died, "nobody was inside");
    lock.release(false).unwrap();
    lose(word, dead);
    acquire(&lock);
    lock.release(false).unwrap();
    // A process that does not have this segment.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    lose(word, stranger.id());
    acquire(&lock);
    lock.release(false).unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    // One that has it.
    let mut alive = peer(&segment);
    lose(word, alive.child.id());
    assert_eq!(lock.acquire(Some(300.0), &mut || true), Err(Refusal::TimedOut));
    alive.kill();
    acquire(&lock);
    lock.release(false).unwrap();
    // The gates, while somebody holds main.
    let mut holder = peer(&segment);
    for gate in support::GATES_AT {
        holder.ask("lock 0");
        lose(support::slot_at(0) + gate + support::word_offset(path), dead);
        holder.tell("release 0 clear");
        acquire(&lock);
        holder.hear();
        lock.release(false).unwrap();
    }
    // The admin mutex: a new chunk needs it.
    lose(support::ADMIN_AT + support::word_offset(path), dead);
    assert_eq!(manager.retrieve(300).unwrap().id, 300);
}

/// The TID of this thread, as the kernel shows it.
fn own_tid() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn a_zombie_is_no_owner() {
    let segment = TempSegment::new("zombie");
    let (_, lock, _) = allocated(&segment);
    let word = support::slot_at(0) + support::word_offset(segment.path());
    let mut zombie = peer(&segment);
    zombie.child.kill().unwrap();
    let stat = format!("/proc/{}/stat", zombie.child.id());
    until("it is a zombie", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    support::patch(segment.path(), word, &zombie.child.id().to_ne_bytes());
    acquire(&lock);
    lock.release(false).unwrap();
}
