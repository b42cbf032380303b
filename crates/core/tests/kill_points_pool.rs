//! A process is killed at every instruction of allocating and freeing ids, and at a part of those of
//! committing a chunk.
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

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use points::{Points, can_run, killed_at, report};
use robust_lock_core::{MAX_LOCKS, Manager};
use scene::{Scene, View, got, id_in, open_and_look};
use support::{open, patch, slot_at};
use victim::{End, in_a_process, mark, state};

#[test]
fn child_entry() {
    scene::child();
}

/// Kills `body` at all its steps: with nobody else about, and with a process that allocates while the
/// victim stands still. `mine`: the one id that it may have taken, or given back.
fn pool(name: &str, body: &dyn Fn(Manager), mine: &dyn Fn(u32, &BTreeSet<u32>) -> bool) {
    let Scene { segment: _segment, view, mut crew } = Scene::new(name);
    let before = view.allocated();
    let (mut kills, begun) = (0, Instant::now());
    for busy in [false, true] {
        Points::All.visit(&mut |step, way| {
            kills += 1;
            let mut others = BTreeSet::new();
            let path = crew.path.clone();
            let body = || body(open_and_look(&path));
            let waiter = &mut crew.waiter;
            let mut take = || assert!(others.insert(id_in(&waiter.ask("allocate"))), "twice");
            let mut whole = false;
            let visit = killed_at(step, way, &body, &mut |end| {
                whole = end == End::Mark;
                if busy {
                    take();
                }
            });
            take();
            let place = format!("{name} after {step} steps");
            let left = view.allocated();
            assert!(before.is_subset(&left) && others.is_subset(&left), "{place}: {left:?}");
            assert!(others.is_disjoint(&before), "{place}: {others:?} given twice");
            let leaked: Vec<u32> = left
                .iter()
                .filter(|id| !before.contains(id) && !others.contains(id))
                .copied()
                .collect();
            assert!(leaked.len() <= 1, "{place}: {leaked:?} have leaked");
            assert!(leaked.iter().all(|&id| mine(id, &others)), "{place}: {leaked:?}, {others:?}");
            // All can be locked, freed, allocated again by their number.
            for id in left.difference(&before) {
                let (_, died) = got(&crew.checker.ask(&format!("lock {id}")));
                assert!(!died, "{place}: {id}");
                assert_eq!(crew.waiter.ask(&format!("try {id}")), "Busy", "{place}: two holders");
                assert_eq!(crew.waiter.ask("held"), format!("[{id}]"), "{place}: locksHeld");
                assert_eq!(crew.checker.ask(&format!("release {id}")), "Ok(())");
                for said in [format!("free {id}"), format!("given {id}"), format!("free {id}")] {
                    assert!(crew.checker.ask(&said).starts_with("Ok("), "{place}: {said}");
                }
            }
            assert_eq!(view.allocated(), before, "{place}");
            assert_eq!(crew.checker.ask("held"), "[]", "{place}: locksHeld");
            view.check_header();
            visit
        });
    }
    report(name, kills, begun);
}

#[test]
fn killed_anywhere_in_allocate() {
    if can_run() {
        let allocate = |manager: Manager| {
            mark();
            manager.allocate().unwrap();
            mark();
        };
        // The lowest, or the next one if another process was faster.
        pool("allocate", &allocate, &|id, _| (2..5).contains(&id));
        let given = |manager: Manager| {
            mark();
            manager.allocate_given(50).unwrap();
            mark();
        };
        pool("allocate-given", &given, &|id, _| id == 50);
    }
}

#[test]
fn killed_anywhere_in_free() {
    if can_run() {
        let free = |manager: Manager| {
            let handle = manager.allocate_given(50).unwrap();
            mark();
            manager.free(handle).unwrap();
            mark();
        };
        pool("free", &free, &|id, _| id == 50);
    }
}

fn is_published(view: &View, chunk: u32) -> bool {
    let mut word = [0; 8];
    view.file.read_exact_at(&mut word, support::CHUNK_MAP_AT + u64::from(chunk / 64 * 8)).unwrap();
    u64::from_ne_bytes(word) & (1 << (chunk % 64)) != 0
}

/// Every slot of the chunk is as a new one must be.
fn check_slots(view: &View, chunk: u32, place: &str) {
    let (image, created): ([u8; 48], [u8; 8]) = (view.read(64), view.read(56));
    for id in chunk * 256..(chunk + 1) * 256 {
        let mutexes = [0, 64, 128].map(|at| view.read::<48>(slot_at(id) + at) == image);
        let dirty_and_generation: [u8; 8] = view.read(slot_at(id) + 48);
        let token: [u8; 8] = view.read(slot_at(id) + 56);
        let turn: [u8; 4] = view.read(slot_at(id) + support::TURN_AT);
        let whole = mutexes == [true; 3] && dirty_and_generation == [0; 8] && turn == [0; 4];
        assert!(whole && token == created, "{place}: lock {id} is published and not initialised");
    }
}

#[test]
fn killed_anywhere_in_a_chunk_commit() {
    if !can_run() {
        return;
    }
    let Scene { segment: _segment, view, mut crew } = Scene::new("chunk");
    in_a_process(|| {
        open(&crew.path, Some(MAX_LOCKS));
        String::new()
    });
    let (mut kills, begun) = (0, Instant::now());
    for waiting in [false, true] {
        Points::Some(60).visit(&mut |step, way| {
            kills += 1;
            let place = format!("chunk commit after {step} steps");
            // One that nobody has used, and worse: what its pages hold is noise.
            let chunk = kills as u32;
            let first = chunk * 256;
            patch(&crew.path, slot_at(first), &[0xee; 65_536]);
            let path = crew.path.clone();
            let body = || {
                let manager = open(&path, None);
                mark();
                manager.retrieve(first).unwrap();
                mark();
            };
            let retrieve = format!("retrieve {first}");
            let visit = killed_at(step, way, &body, &mut |end| {
                assert!(end != End::Mark || is_published(&view, chunk), "{place}: not done");
                if is_published(&view, chunk) {
                    check_slots(&view, chunk, &place);
                } else if waiting {
                    crew.waiter.tell(&retrieve);
                    // It sleeps behind the victim, or has done the work; or this is tried too soon.
                    support::until("it waits", || state(crew.waiter.tid) == 'S');
                }
            });
            if let Some(said) = crew.waiter.hear() {
                assert_eq!(said, format!("Ok({first})"), "{place}");
            }
            assert_eq!(crew.checker.ask(&retrieve), format!("Ok({first})"), "{place}");
            check_slots(&view, chunk, &place);
            for id in [first, first + 255] {
                let (token, died) = got(&crew.checker.ask(&format!("lock {id}")));
                assert!(!died && token == u64::from_ne_bytes(view.read(56)) + 1, "{place}");
                assert_eq!(crew.waiter.ask(&format!("try {id}")), "Busy", "{place}: two holders");
                assert_eq!(crew.waiter.ask("held"), format!("[{id}]"), "{place}: locksHeld");
                assert_eq!(crew.checker.ask(&format!("release {id}")), "Ok(())");
            }
            view.check_header();
            visit
        });
    }
    report("chunk commit", kills, begun);
}
