//! The id map under every interleaving. Run with `RUSTFLAGS="--cfg loom"`: see scripts/test-rust.sh.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use robust_lock_core::idmap::{Found, IdMap};

/// Two words of 64 ids, of which all but the lowest `room` of each are taken.
struct Map {
    bits: [AtomicU64; 2],
    hints: [AtomicU64; 1],
    top: [AtomicU64; 1],
}

impl Map {
    fn new(first: u64, second: u64) -> Arc<Self> {
        let full = |word| u64::from(word == u64::MAX);
        // A hint word that stands for 64 words, of which two exist: the others count as full.
        let hints = !0b11 | full(first) | full(second) << 1;
        Arc::new(Self {
            bits: [AtomicU64::new(first), AtomicU64::new(second)],
            hints: [AtomicU64::new(hints)],
            top: [AtomicU64::new(!1 | u64::from(hints == u64::MAX))],
        })
    }

    fn ids(&self) -> IdMap<'_> {
        IdMap::new(&self.bits, &self.hints, &self.top)
    }

    fn allocate(&self) -> Found {
        self.ids().allocate::<()>(128, |_| Ok(true)).unwrap()
    }
}

const FULL: u64 = u64::MAX;

#[test]
fn two_allocations_never_get_the_same_id() {
    loom::model(|| {
        let map = Map::new(FULL << 1, FULL << 1);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || other.allocate());
        let mine = map.allocate();
        let theirs = thread.join().unwrap();
        assert_ne!(mine, theirs);
        let ids = [Found::Id(0), Found::Id(64)];
        assert!(ids.contains(&mine) && ids.contains(&theirs));
        assert_eq!(map.allocate(), Found::Full { unusable: 0 });
    });
}

#[test]
fn one_id_goes_to_one_of_two() {
    loom::model(|| {
        let map = Map::new(FULL << 1, FULL);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || other.ids().allocate_given(0));
        let mine = map.allocate() == Found::Id(0);
        assert!(mine ^ thread.join().unwrap());
        assert_eq!(map.ids().count(128), 128);
    });
}

#[test]
fn what_is_freed_while_a_word_fills_up_can_be_had_again() {
    loom::model(|| {
        // Id 0 is free and id 1 is freed, while id 0 is taken: the hint is set and cleared in all orders.
        let map = Map::new(FULL << 1, FULL);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || assert!(other.ids().free(1)));
        let mine = map.allocate();
        thread.join().unwrap();
        assert!(mine == Found::Id(0) || mine == Found::Id(1));
        let rest = if mine == Found::Id(0) { 1 } else { 0 };
        assert_eq!(map.allocate(), Found::Id(rest));
        // Not only by the search without hints: these are right again as well.
        map.ids().free(rest);
        assert_eq!(map.hints[0].load(Ordering::Relaxed) & 1, 0);
        assert_eq!(map.top[0].load(Ordering::Relaxed) & 1, 0);
    });
}

#[test]
fn an_id_goes_back_and_forth() {
    loom::model(|| {
        let map = Map::new(FULL << 1, FULL);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || {
            if let Found::Id(id) = other.allocate() {
                assert!(other.ids().free(id));
            }
        });
        if let Found::Id(id) = map.allocate() {
            assert!(map.ids().free(id));
        }
        thread.join().unwrap();
        assert_eq!(map.allocate(), Found::Id(0));
        assert_eq!(map.ids().count(128), 128);
    });
}

#[test]
fn clearing_beside_an_allocation_leaves_nothing_hidden() {
    loom::model(|| {
        let map = Map::new(FULL << 1, FULL);
        let other = Arc::clone(&map);
        let thread = thread::spawn(move || other.ids().clear());
        let mine = map.allocate();
        thread.join().unwrap();
        let taken = map.ids().count(128);
        assert!(taken <= 1, "cleared, but for an id claimed since: {mine:?}, {taken}");
        assert_eq!(map.hints[0].load(Ordering::Relaxed) & 1, 0);
    });
}
