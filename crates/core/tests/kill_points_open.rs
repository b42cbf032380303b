//! A process is killed at a part of the instructions of opening, creating and adopting a segment; `npm run
//! soak -- kill-points` leaves out none. After each death every lock of the segment is tried.
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

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use points::{Points, can_run, killed_at, report};
use robust_lock_core::{Manager, OpenOptions};
use scene::{Actor, Scene, View};
use support::{ADMIN_AT, STAMPS_AT, TempSegment, open, options, patch, read, slot_at};
use victim::{End, in_a_process, mark};

#[test]
fn child_entry() {
    scene::child();
}

/// What a process of its own finds in a segment that others left; the checks are made there, too.
fn open_elsewhere(path: &Path, check: impl FnOnce(Manager, bool)) {
    in_a_process(|| {
        let (manager, created) = Manager::open(&options(path)).unwrap();
        check(manager, created);
        String::new()
    });
}

/// So that the first call in a process, with its probes, is another one.
fn warm(path: &Path) {
    Manager::open(&options(path)).unwrap();
}

/// A holder of this id has died inside its section.
fn dies_inside(path: &Path, id: u32) {
    let generation = u32::from_ne_bytes(read(path, slot_at(id) + 52));
    patch(path, slot_at(id) + support::DIRTY_AT, &(generation | 1 << 31).to_ne_bytes());
}

/// Beside a holder and one that waits for it.
#[test]
fn killed_anywhere_in_open() {
    if !can_run() {
        return;
    }
    let Scene { segment: _segment, view, mut crew } = Scene::new("open");
    let other = TempSegment::new("warm");
    let path = crew.path.clone();
    assert_eq!(crew.checker.ask("retrieve 300"), "Ok(300)", "a second chunk");
    let allocated = view.allocated();
    let (mut kills, begun) = (0, Instant::now());
    Points::Some(60).visit(&mut |step, way| {
        kills += 1;
        let place = format!("open after {step} steps");
        dies_inside(&path, 3);
        let (token, _) = crew.holder.lock();
        crew.waiter.take();
        let body = || {
            warm(other.path());
            mark();
            open(&path, None);
            mark();
        };
        let visit = killed_at(step, way, &body, &mut |_| {
            assert_eq!(crew.checker.ask("try 0"), "Busy", "{place}: its holder");
        });
        let mut next = Actor::new(&path);
        assert_eq!(next.ask("try 0"), "Busy", "{place}: its holder");
        crew.settle(&view, token, false);
        next.has_all(512, &[3], &mut crew.checker, &place);
        assert_eq!(next.ask("allocate"), "Ok(2)", "{place}");
        assert_eq!(crew.checker.ask("allocate"), "Ok(3)", "{place}");
        assert_eq!(crew.checker.ask("free 2"), "Ok(())", "{place}");
        assert_eq!(next.ask("free 3"), "Ok(())", "{place}");
        assert_eq!(view.allocated(), allocated, "{place}");
        visit
    });
    report("open", kills, begun);
}

/// Alone, and beside one that opens or creates it while the victim stands still.
#[test]
fn killed_anywhere_in_create() {
    if !can_run() {
        return;
    }
    let (folder, other) = (TempSegment::new("create"), TempSegment::new("warm"));
    std::fs::create_dir(folder.path()).unwrap();
    let path = folder.path().join("segment");
    let (mut kills, begun) = (0, Instant::now());
    for busy in [false, true] {
        Points::Some(60).visit(&mut |step, way| {
            kills += 1;
            let place = format!("create after {step} steps, beside another one: {busy}");
            let body = || {
                warm(other.path());
                mark();
                let wanted =
                    OpenOptions { capacity: Some(9), in_use: vec![0, 2], ..options(&path) };
                Manager::open(&wanted).unwrap();
                mark();
            };
            let (mut beside, mut is_there) = (None, false);
            let visit = killed_at(step, way, &body, &mut |end| {
                is_there = path.exists();
                assert!(end != End::Mark || is_there, "not done");
                beside = busy.then(|| {
                    let mut actor = Actor::new(&path);
                    assert_eq!(actor.ask("try 1").split(' ').next(), Some("got"), "{place}");
                    actor
                });
            });
            let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(left.len(), usize::from(busy || is_there), "{place}: {left:?}");
            let (capacity, in_use) = if is_there { (9, vec![0, 2]) } else { (2048, vec![]) };
            open_elsewhere(&path, |manager, created| {
                assert_eq!(created, left.is_empty(), "{place}");
                let found = (manager.segment().capacity(), manager.available());
                assert_eq!(found, (capacity, capacity - in_use.len() as u32), "{place}");
                let tried = manager.lock(manager.retrieve(1).unwrap().id).unwrap().try_acquire();
                assert_eq!(tried.is_ok(), !busy, "{place}: two holders");
            });
            let mut next = Actor::new(&path);
            let mut first = beside.unwrap_or_else(|| Actor::new(&path));
            if busy {
                assert_eq!(first.ask("release 1"), "Ok(())", "{place}");
            } else {
                // Whoever took it before has ended with it.
                assert!(next.ask("try 1").ends_with(" true"), "{place}");
                assert_eq!(next.ask("release 1"), "Ok(())", "{place}");
            }
            next.has_all(256, &[], &mut first, &place);
            first.has_all(256, &[], &mut next, &place);
            let expected: Vec<u32> = (0..capacity).filter(|id| !in_use.contains(id)).collect();
            assert_eq!(next.ask("allocate-all"), format!("{expected:?}"), "{place}");
            assert_eq!(first.ask("allocate-all"), "[]", "{place}");
            std::fs::remove_file(&path).unwrap();
            visit
        });
    }
    report("create", kills, begun);
}

/// The three lock words of each of the first 256 locks.
fn words_of_slots(path: &Path) -> Vec<u64> {
    let word = support::word_offset(path);
    (0..256).flat_map(|id| [0, 64, 128].map(|mutex| slot_at(id) + mutex + word)).collect()
}

#[test]
fn killed_anywhere_in_an_adoption() {
    if !can_run() {
        return;
    }
    let (segment, other) = (TempSegment::new("adopted"), TempSegment::new("warm"));
    let path = segment.path();
    open_elsewhere(path, |manager, _| assert_eq!(manager.allocate().unwrap().id, 0));
    // This process has it mapped: so its TID in a lock word is no proof of a death.
    victim::map(path);
    let view = View::new(path);
    let ours: [u8; 32] = read(path, STAMPS_AT);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut words = words_of_slots(path);
    words.push(ADMIN_AT + support::word_offset(path));
    let are_made = || words.iter().all(|&at| view.read(at) == [0; 4]);
    let (mut kills, begun) = (0, Instant::now());
    Points::Some(40).visit(&mut |step, way| {
        kills += 1;
        let place = format!("adoption after {step} steps");
        for &at in &words {
            file.write_all_at(&std::process::id().to_ne_bytes(), at).unwrap();
        }
        dies_inside(path, 0);
        let token = u64::from_ne_bytes(view.read(slot_at(0) + 56));
        patch(path, STAMPS_AT, &[7; 32]);
        let body = || {
            warm(other.path());
            mark();
            // Opening gives up after a second, which one that is stepped through may well take.
            while Manager::open(&options(path)).is_err() {}
            mark();
        };
        let visit = killed_at(step, way, &body, &mut |end| {
            let adopted = view.read(STAMPS_AT) == ours;
            assert!(end != End::Mark || adopted, "not done");
            assert!(are_made() || !adopted, "{place}: stamped before its mutexes are made");
        });
        open_elsewhere(path, |manager, created| {
            assert!(!created && manager.available() == 2047, "{place}: the allocation");
            assert!(are_made(), "{place}");
            let lock = manager.lock(0).unwrap();
            let acquired = lock.acquire(Some(2_000.0), &mut || true).unwrap();
            assert!(acquired.owner_died && acquired.token == token + 1, "{acquired:?}");
            lock.release(false).unwrap();
            assert_eq!(manager.retrieve(300).unwrap().id, 300, "the admin mutex");
        });
        let (mut next, mut other) = (Actor::new(path), Actor::new(path));
        next.has_all(256, &[], &mut other, &place);
        visit
    });
    report("adoption", kills, begun);
}
