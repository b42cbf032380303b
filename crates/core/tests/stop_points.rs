//! A process is stopped at every instruction of an operation, another one does the worst that it can do
//! in that instant, and the first goes on: what is read, proven and then written must hold together.
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

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use points::{Points, Visit, Way, can_run, report};
use robust_lock_core::{Handle, Refusal};
use scene::{Crew, Scene, View, got, id_in, open_and_look};
use support::{GATES_AT, Peer, STAMPS_AT, TOKEN_AT, TempSegment, open, patch, slot_at};
use victim::{Asleep, End, Victim, in_a_process, mark};

#[test]
fn child_entry() {
    scene::child();
}

/// One victim: `body` up to a step, `act` while it stands there, and then what `body` ends with. `act`
/// does nothing in the run that counts the steps.
fn one(
    step: u64,
    mut way: Way,
    body: &dyn Fn() -> String,
    act: &mut dyn FnMut(),
) -> (Visit, String) {
    let mut victim = Victim::saying(body);
    let pid = victim.pid();
    let place = way.begin(&victim, step);
    let mut steps = place.as_ref().map_or(0, |place| place.step);
    let seen = || {
        steps += 1;
        way.note(pid);
    };
    let end = victim.step(place, step, seen, || Asleep::Wait);
    if end == End::Steps {
        act();
    }
    let said = victim.finish();
    (Visit { end, steps, sleeps: 0 }, said)
}

fn id_of(outcome: robust_lock_core::Result<Handle>) -> String {
    format!("{:?}", outcome.map(|handle| handle.id))
}

/// What a victim does that allocates.
fn allocate(path: &Path) -> String {
    let manager = open_and_look(path);
    mark();
    let outcome = manager.allocate();
    mark();
    id_of(outcome)
}

/// `stop` at every step, in one scene.
fn at_every_step(what: &str, stop: &mut dyn FnMut(&View, &mut Crew, u64, Way) -> Visit) {
    let Scene { segment: _segment, view, mut crew } = Scene::new("stops");
    let (mut stops, begun) = (0, Instant::now());
    Points::All.visit(&mut |step, way| {
        stops += 1;
        stop(&view, &mut crew, step, way)
    });
    report(what, stops, begun);
}

fn generation(view: &View, id: u32) -> u32 {
    u32::from_ne_bytes(view.read(slot_at(id) + 52))
}

#[test]
fn two_that_allocate_at_once_never_get_the_same() {
    if !can_run() {
        return;
    }
    at_every_step("an allocation amid another", &mut |view, crew, step, way| {
        let path = crew.path.clone();
        let body = || allocate(&path);
        let mut other = None;
        let (visit, said) =
            one(step, way, &body, &mut || other = Some(id_in(&crew.checker.ask("allocate"))));
        let ids: Vec<u32> = other.into_iter().chain([id_in(&said)]).collect();
        assert!(ids.len() < 2 || ids[0] != ids[1], "step {step}: {ids:?}");
        assert_eq!(view.allocated().len(), 2 + ids.len(), "step {step}: {ids:?}");
        for id in ids {
            assert_eq!(crew.checker.ask(&format!("free {id}")), "Ok(())", "step {step}");
        }
        visit
    });
}

#[test]
fn a_lock_that_is_taken_and_freed_in_the_middle_of_an_allocation_is_not_handed_out() {
    if !can_run() {
        return;
    }
    at_every_step("a held lock freed amid an allocation", &mut |view, crew, step, way| {
        let path = crew.path.clone();
        let body = || allocate(&path);
        let mut held = None;
        let (visit, said) = one(step, way, &body, &mut || {
            let id = id_in(&crew.checker.ask("allocate"));
            got(&crew.checker.ask(&format!("lock {id}")));
            assert_eq!(crew.checker.ask(&format!("free {id}")), "Ok(())");
            held = Some(id);
        });
        assert_ne!(Some(id_in(&said)), held, "step {step}: its holder believes to be alone");
        assert_eq!(view.allocated().len(), 3, "step {step}");
        if let Some(id) = held {
            assert_eq!(crew.checker.ask(&format!("release {id}")), "Ok(())");
        }
        assert_eq!(crew.checker.ask(&format!("free {}", id_in(&said))), "Ok(())", "step {step}");
        visit
    });
}

#[test]
fn an_allocation_in_the_middle_of_a_free_stays() {
    if !can_run() {
        return;
    }
    at_every_step("an allocation amid a free", &mut |view, crew, step, way| {
        let path = crew.path.clone();
        let body = || {
            let manager = open(&path, None);
            let handle = manager.allocate_given(50).unwrap();
            mark();
            let outcome = manager.free(handle);
            mark();
            format!("{outcome:?}")
        };
        let mut other = vec![];
        let (visit, said) =
            one(step, way, &body, &mut || other.push(id_in(&crew.checker.ask("allocate"))));
        assert_eq!(said, "Ok(())", "step {step}");
        assert_eq!(view.allocated().into_iter().skip(2).collect::<Vec<_>>(), other, "step {step}");
        for id in other {
            assert_eq!(crew.checker.ask(&format!("free {id}")), "Ok(())", "step {step}");
        }
        visit
    });
}

/// Where a victim stands in its allocation of id 2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    /// The bit is set, the generation not advanced.
    Claimed,
    /// It has the id, and can lose it like everybody.
    Done,
}

#[test]
fn an_id_that_all_lost_in_the_middle_of_its_allocation_is_the_next_ones() {
    if !can_run() {
        return;
    }
    let (mut noticed, mut unnoticed) = (0, 0);
    at_every_step("all freed amid an allocation", &mut |view, crew, step, way| {
        let path = crew.path.clone();
        let body = || allocate(&path);
        let before = generation(view, 2);
        let mut meanwhile = None;
        let (visit, said) = one(step, way, &body, &mut || {
            let stage = match (generation(view, 2) != before, view.allocated().contains(&2)) {
                (true, _) => Stage::Done,
                (false, true) => Stage::Claimed,
                (false, false) => Stage::Before,
            };
            assert_eq!(crew.checker.ask("free-all"), "Ok(())");
            let ids: Vec<u32> = (0..3).map(|_| id_in(&crew.checker.ask("allocate"))).collect();
            meanwhile = Some((stage, ids));
        });
        let twice = |ids: &[u32]| ids.contains(&id_in(&said));
        match meanwhile {
            Some((Stage::Done, _)) | None => assert_eq!(said, "Ok(2)", "step {step}"),
            Some((Stage::Before, ids)) => assert!(!twice(&ids), "step {step}: {said}"),
            Some((Stage::Claimed, ids)) if twice(&ids) => unnoticed += 1,
            Some((Stage::Claimed, _)) => noticed += 1,
        }
        assert_eq!(crew.checker.ask("free-all"), "Ok(())");
        for id in [0, 1] {
            assert_eq!(crew.checker.ask("allocate"), format!("Ok({id})"));
        }
        visit
    });
    // Before the generation is read there is nothing that could be noticed: DESIGN.md says so.
    assert!(noticed > 0, "it is never noticed");
    println!(
        "a claim that is lost: {noticed} steps at which it is noticed, {unnoticed} at which not"
    );
}

/// A victim that finds lock 0 with the name of the dead, and tries to get it.
fn try_lock(path: &Path) -> String {
    let lock = open(path, None).lock(0).unwrap();
    mark();
    let outcome = lock.try_acquire().map(|acquired| acquired.owner_died);
    mark();
    if outcome.is_ok() {
        lock.release(false).unwrap();
    }
    format!("{outcome:?}")
}

#[test]
fn a_lock_that_has_an_owner_again_is_not_recovered() {
    if !can_run() {
        return;
    }
    at_every_step("a new owner amid a recovery", &mut |view, crew, step, way| {
        crew.lose(view, 0);
        let path = crew.path.clone();
        let lost = view.look().word;
        let mut held = false;
        let (visit, said) = one(step, way, &|| try_lock(&path), &mut || {
            // Somebody was faster with the recovery, and has the lock now.
            held = view.look().word == lost;
            if held {
                crew.set_owner(view, 0, 0);
                crew.checker.lock();
            }
        });
        if held {
            assert_eq!(said, format!("{:?}", Err::<bool, _>(Refusal::Busy)), "step {step}");
            crew.checker.release();
        } else {
            assert_eq!(said, "Ok(false)", "step {step}");
        }
        crew.settle(view, 0, false);
        visit
    });
}

/// The two looks of a waiter are 10 ms apart or more, so the token moves between them.
const MOVES_EVERY: Duration = Duration::from_millis(5);

#[test]
fn a_gate_whose_holder_moves_keeps_its_turn() {
    if !can_run() {
        return;
    }
    let Scene { segment: _segment, view, crew } = Scene::new("moves");
    crew.set_owner(&view, GATES_AT[0], crew.holder.tid);
    let mut victim = Victim::saying(&|| {
        let lock = open(&crew.path, None).lock(0).unwrap();
        mark();
        lock.acquire(None, &mut || true).unwrap();
        mark();
        format!("{:?}", lock.release(false))
    });
    // Main is free whenever it looks; but somebody has had a turn there since its last look.
    let (steps, sleeps) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut last, mut moved, mut closed) = (0, Instant::now(), true);
    let end = victim.step(
        None,
        u64::MAX,
        || {
            steps.fetch_add(1, Ordering::Relaxed);
            // Of three sleeps one has been between two looks.
            if sleeps.load(Ordering::Relaxed) == 5 && std::mem::take(&mut closed) {
                crew.set_owner(&view, GATES_AT[0], 0);
            } else if closed && moved.elapsed() >= MOVES_EVERY {
                moved = Instant::now();
                let token = view.look().token + 1;
                patch(&crew.path, slot_at(0) + TOKEN_AT, &token.to_ne_bytes());
            }
        },
        || {
            let step = steps.load(Ordering::Relaxed);
            if std::mem::replace(&mut last, step) != step && sleeps.load(Ordering::Relaxed) < 5 {
                sleeps.fetch_add(1, Ordering::Relaxed);
            }
            Asleep::Wait
        },
    );
    let turn = u32::from_ne_bytes(view.read(slot_at(0) + support::TURN_AT));
    assert_eq!((end, turn), (End::Mark, 0));
    assert_eq!(victim.finish(), "Ok(())");
}

/// Whether anybody has the byte locked that a recovery locks.
fn is_recovering(file: &File) -> bool {
    // SAFETY: flock is plain old data; all zeroes is a valid value.
    let mut range: libc::flock = unsafe { core::mem::zeroed() };
    range.l_type = libc::F_WRLCK as libc::c_short;
    range.l_start = 320;
    range.l_len = 1;
    // SAFETY: an open descriptor, and a flock of ours that the call fills in.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut range) };
    assert_eq!(asked, 0);
    range.l_type != libc::F_UNLCK as libc::c_short
}

#[test]
fn who_maps_the_segment_before_the_second_proof_keeps_the_lock() {
    if !can_run() {
        return;
    }
    let Scene { segment: _segment, view, mut crew } = Scene::new("proof");
    // It has nothing to do with the segment, and its TID stands in the lock word: as a lost owner's does
    // that was given to somebody else.
    let mut stranger = Peer::new();
    let tid = stranger.ask("tid").parse().unwrap();
    crew.set_owner(&view, 0, tid);
    let path = crew.path.clone();
    let mut victim = Victim::saying(&|| try_lock(&path));
    let mut steps = 0;
    while !is_recovering(&view.file) {
        assert_eq!(victim.step(None, 1, || steps += 1, || Asleep::Wait), End::Steps, "no recovery");
    }
    // Between the two proofs. Now it does have the segment, and could have the lock.
    stranger.ask(&format!("open {}", path.display()));
    assert_eq!(victim.finish(), format!("{:?}", Err::<bool, _>(Refusal::Busy)));
    assert_eq!(view.look().owner, tid);
    stranger.kill();
    crew.settle(&view, 0, false);
}

#[test]
fn a_lost_owner_beside_the_bit_of_an_earlier_death_is_healed() {
    let Scene { segment: _segment, view, mut crew } = Scene::new("bit");
    let lose = |crew: &mut Crew| {
        crew.lose(&view, 0);
        // musl leaves it there until the new owner has made the mutex consistent.
        let word = view.look().word | 0x4000_0000;
        patch(&crew.path, slot_at(0) + support::word_offset(&crew.path), &word.to_ne_bytes());
    };
    // By an allocation, which looks at the owner alone; glibc's own lock takes such a word as it is.
    lose(&mut crew);
    assert_eq!(crew.checker.ask("free 0"), "Ok(())");
    assert_eq!(crew.checker.ask("allocate"), "Ok(0)");
    lose(&mut crew);
    let (_, died) = got(&crew.checker.ask("lock 0"));
    assert!(!died);
    assert_eq!(crew.checker.ask("release 0"), "Ok(())");
}

#[test]
fn who_opens_while_another_world_adopts_starts_over() {
    if !can_run() {
        return;
    }
    let (segment, other) = (TempSegment::new("worlds"), TempSegment::new("warm"));
    let path = segment.path();
    in_a_process(|| id_of(open(path, None).allocate()));
    victim::map(path);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let main = slot_at(0) + support::word_offset(path);
    let (mut stops, begun) = (0, Instant::now());
    Points::Some(150).visit(&mut |step, way| {
        stops += 1;
        let body = || {
            open(other.path(), None);
            mark();
            let manager = open(path, None);
            mark();
            let lock = manager.lock(0).unwrap();
            let acquired = lock.acquire(Some(2_000.0), &mut || true);
            let released = lock.release(false);
            format!("{:?} {released:?}", acquired.map(|acquired| acquired.owner_died))
        };
        let (visit, said) = one(step, way, &body, &mut || {
            // Another world can come as long as this one has no flock. It leaves a lock with the name of
            // a thread of its own; here that is one of ours, which has the segment.
            if let Ok(locked) =
                Flock::lock(file.try_clone().unwrap(), FlockArg::LockExclusiveNonblock)
            {
                patch(path, main, &std::process::id().to_ne_bytes());
                patch(path, STAMPS_AT, &[9; 32]);
                locked.unlock().unwrap();
            }
        });
        assert_eq!(said, "Ok(false) Ok(())", "step {step}");
        visit
    });
    report("another world adopts in the middle of opening", stops, begun);
}
