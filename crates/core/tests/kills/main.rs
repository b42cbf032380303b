//! Processes that take and release locks, allocate and free, and are killed at random instants.
//!
//! One supervisor forks eight workers, which fight for four locks and a pool of ids; it kills them, one
//! or two at a time, and forks new ones. Some are stopped first, of some the memory is torn down before
//! the kernel has released their locks. What must never happen is noticed by oracles in a page of
//! shared memory of their own: see page.rs.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod storm;

use std::sync::atomic::Ordering::SeqCst;

use robust_lock_core::Acquired;
use storm::page::{Page, WRONGS, Who, Wrong};
use storm::supervisor::{Storm, figures, is_clean};
use support::{Peer, patience, serve};

/// With musl they come after those with glibc, on the same machine.
const KILLS: u64 = if cfg!(target_env = "musl") { 5_000 } else { 20_000 };
/// So many at a time, between two words of the supervisor.
const STEP: u64 = 1_000;

/// `storm KILLS`: so many more, and the figures of all.
#[test]
fn child_entry() {
    let mut storm: Option<(&'static Page, Storm)> = None;
    serve(|words| {
        let (page, storm) = storm.get_or_insert_with(|| {
            let page = Page::new();
            (page, Storm::new(page, fastrand::u64(..)))
        });
        storm.run(storm.tally.kills + words[1].parse::<u64>().unwrap(), |_| true);
        let figures = figures(page, &storm.tally);
        let named = figures.iter().map(|(name, figure)| format!("{figure} {name}"));
        format!("{} {}", is_clean(page), named.collect::<Vec<_>>().join(", "))
    });
}

#[test]
fn random_kills_under_load() {
    let mut supervisor = Peer::new();
    let mut said = String::new();
    let kills = if patience() > 1 { STEP } else { KILLS };
    for _ in 0..kills / STEP {
        said = supervisor.ask(&format!("storm {STEP}"));
        assert!(said.starts_with("true "), "{said}");
    }
    println!("{said}");
}

/// A page with two workers in it, who do what a core that is broken would let them do.
fn noticed(what: impl FnOnce(&Page, Who, Who)) -> Vec<Wrong> {
    let page = Page::new();
    let (one, two) = (Who::new(0, 1), Who::new(1, 1));
    for who in [one, two] {
        page.places[who.place()].who.store(who.0, SeqCst);
    }
    what(page, one, two);
    WRONGS.into_iter().filter(|&wrong| page.count(wrong) > 0).collect()
}

fn dies(page: &Page, who: Who) {
    page.places[who.place()].who.store(0, SeqCst);
}

const FIRST: Acquired = Acquired { owner_died: false, token: 1 };
const NEXT: Acquired = Acquired { owner_died: false, token: 2 };
const TOLD: Acquired = Acquired { owner_died: true, token: 2 };

#[test]
fn the_oracles_notice_what_they_are_for() {
    let well = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.update(0, || dies(page, one));
        page.enter(0, two, TOLD);
        page.exit(0, two);
        page.allocated(7, two, false);
        page.freeing(7, two);
    });
    assert_eq!(well, []);
    let together = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.enter(0, two, NEXT);
    });
    assert_eq!(together, [Wrong::DoubleHold]);
    let told_of_the_living = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.enter(0, two, TOLD);
    });
    assert_eq!(told_of_the_living, [Wrong::DoubleHold]);
    let thrown_out = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.records[0].holder.store(two.0, SeqCst);
        page.exit(0, one);
    });
    assert_eq!(thrown_out, [Wrong::DoubleHold]);
    let not_told = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        dies(page, one);
        page.enter(0, two, NEXT);
    });
    assert_eq!(not_told, [Wrong::Unannounced]);
    let torn = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.update(0, || page.exit(0, one));
        page.records[0].right.store(0, SeqCst);
        page.enter(0, two, NEXT);
    });
    assert_eq!(torn, [Wrong::Unannounced]);
    let tokens = noticed(|page, one, two| {
        page.enter(0, one, FIRST);
        page.exit(0, one);
        page.enter(0, two, FIRST);
    });
    assert_eq!(tokens, [Wrong::Token]);
    let twice = noticed(|page, one, two| {
        page.allocated(7, one, false);
        page.allocated(7, two, false);
    });
    assert_eq!(twice, [Wrong::DoubleAllocation]);
    let held = noticed(|page, one, two| {
        page.inside[7].store(one.0, SeqCst);
        page.allocated(7, two, false);
    });
    assert_eq!(held, [Wrong::DoubleAllocation]);
}
