//! The id map against a set: any order of operations, any capacity, any state of the hints.
#![cfg(not(loom))]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use robust_lock_core::idmap::{Found, IdMap};

const WORDS: usize = 70;
const IDS: u32 = WORDS as u32 * 64;

#[derive(Clone, Debug)]
enum Op {
    Allocate,
    Given(u32),
    Free(u32),
    Clear,
    Count,
    /// Hints that a dead writer has left behind: set over words with room.
    SpoilHint(usize, u64),
    SpoilTop(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Allocate),
        2 => (0..IDS).prop_map(Op::Given),
        5 => (0..IDS).prop_map(Op::Free),
        1 => Just(Op::Clear),
        1 => Just(Op::Count),
        1 => (0..2usize, any::<u64>()).prop_map(|(word, bits)| Op::SpoilHint(word, bits)),
        1 => any::<u64>().prop_map(Op::SpoilTop),
    ]
}

proptest! {
    #[test]
    fn it_is_a_set(
        capacity in prop_oneof![1..=IDS, Just(IDS), 1..130u32],
        filled in 0..IDS,
        held in prop::collection::btree_set(0..IDS, 0..8),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (bits, hints, top) = (words(WORDS), words(2), words(1));
        let map = IdMap::new(&bits, &hints, &top);
        let mut model: BTreeSet<u32> = (0..filled.min(capacity)).collect();
        for &id in &model {
            prop_assert!(map.allocate_given(id));
        }
        let mut spoilt = false;
        for op in ops {
            match op {
                Op::Allocate => {
                    let found = map.allocate::<()>(capacity, |id| Ok(!held.contains(&id))).unwrap();
                    let free = || (0..capacity).filter(|id| !model.contains(id));
                    let lowest = free().find(|id| !held.contains(id));
                    match (found, lowest) {
                        (Found::Id(id), Some(lowest)) => {
                            prop_assert!(id < capacity && !held.contains(&id));
                            prop_assert!(spoilt || id == lowest, "{id} instead of {lowest}");
                            prop_assert!(model.insert(id));
                        }
                        (Found::Full { unusable }, None) => {
                            prop_assert_eq!(unusable as usize, free().count());
                        }
                        (found, lowest) => prop_assert!(false, "{found:?}, not {lowest:?}"),
                    }
                }
                Op::Given(id) => prop_assert_eq!(map.allocate_given(id), model.insert(id)),
                Op::Free(id) => prop_assert_eq!(map.free(id), model.remove(&id)),
                Op::Clear => {
                    map.clear();
                    model.clear();
                    spoilt = false;
                }
                Op::Count => {
                    prop_assert_eq!(map.count(capacity) as usize, model.range(..capacity).count());
                }
                Op::SpoilHint(word, with) => {
                    hints[word].fetch_or(with, Ordering::Relaxed);
                    spoilt = true;
                }
                Op::SpoilTop(with) => {
                    top[0].fetch_or(with, Ordering::Relaxed);
                    spoilt = true;
                }
            }
            for id in [0, 63, 64, capacity - 1] {
                prop_assert_eq!(map.is_allocated(id), model.contains(&id));
            }
        }
    }
}

#[test]
fn the_search_ends_with_the_callers_error() {
    let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (bits, hints, top) = (words(64), words(1), words(1));
    let map = IdMap::new(&bits, &hints, &top);
    assert_eq!(map.allocate(64, |_| Err("no room")), Err("no room"));
    assert_eq!(map.count(64), 0);
}
