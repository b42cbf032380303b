//! The manager against a reference model: any order of operations, in one process.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use robust_lock_core::{Code, Handle, Manager, Refusal};
use support::{TempSegment, open};

#[derive(Clone, Debug)]
enum Op {
    Allocate,
    Given(u32),
    Retrieve(u32),
    /// Frees through the handle of that number, however old.
    Free(usize),
    FreeAll,
    Grow(u32),
    Lock(u32),
    Unlock(u32),
}

const MOST: u32 = 12;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Allocate),
        2 => (0..MOST + 2).prop_map(Op::Given),
        2 => (0..MOST + 2).prop_map(Op::Retrieve),
        6 => any::<prop::sample::Index>().prop_map(|i| Op::Free(i.index(1 << 20))),
        1 => Just(Op::FreeAll),
        1 => (1..=MOST).prop_map(Op::Grow),
        4 => (0..MOST).prop_map(Op::Lock),
        4 => (0..MOST).prop_map(Op::Unlock),
    ]
}

#[derive(Default)]
struct Model {
    capacity: u32,
    /// How often each id has been allocated.
    generation: BTreeMap<u32, u32>,
    allocated: Vec<u32>,
    held: BTreeMap<u32, u64>,
    tokens: BTreeMap<u32, u64>,
}

impl Model {
    fn take(&mut self, id: u32) -> Handle {
        self.allocated.push(id);
        *self.generation.entry(id).or_default() += 1;
        Handle { id, generation: self.generation.get(&id).copied() }
    }

    fn is_allocated(&self, id: u32) -> bool {
        self.allocated.contains(&id)
    }

    fn allocate(&mut self) -> Result<Handle, Code> {
        let free = |id: &u32| !self.is_allocated(*id) && !self.held.contains_key(id);
        let lowest = (0..self.capacity).find(free).ok_or(Code::Exhausted)?;
        Ok(self.take(lowest))
    }

    fn given(&mut self, id: u32) -> Result<Handle, Code> {
        match id {
            _ if id >= self.capacity => Err(Code::OutOfRange),
            _ if self.is_allocated(id) => Err(Code::AlreadyAllocated),
            _ => Ok(self.take(id)),
        }
    }

    fn retrieve(&self, id: u32) -> Result<Handle, Code> {
        let generation = || Some(self.generation.get(&id).copied().unwrap_or(0));
        let known = || self.is_allocated(id).then(generation).flatten();
        if id < self.capacity {
            Ok(Handle { id, generation: known() })
        } else {
            Err(Code::OutOfRange)
        }
    }

    fn free(&mut self, Handle { id, generation }: Handle) -> Result<(), Code> {
        if !self.is_allocated(id) {
            return Err(Code::NotAllocated);
        }
        if generation.is_some() && generation != self.generation.get(&id).copied() {
            return Err(Code::StaleHandle);
        }
        self.allocated.retain(|&other| other != id);
        Ok(())
    }
}

fn step(op: Op, manager: &Manager, model: &mut Model, handles: &mut Vec<Handle>, at: &TempSegment) {
    let code = |error: robust_lock_core::Error| error.code;
    let mut keep = |real: Result<Handle, Code>, expected: Result<Handle, Code>| {
        assert_eq!(real, expected);
        handles.extend(real.ok());
    };
    match op {
        Op::Allocate => keep(manager.allocate().map_err(code), model.allocate()),
        Op::Given(id) => keep(manager.allocate_given(id).map_err(code), model.given(id)),
        Op::Retrieve(id) => keep(manager.retrieve(id).map_err(code), model.retrieve(id)),
        Op::Free(which) if !handles.is_empty() => {
            let handle = handles[which % handles.len()];
            assert_eq!(manager.free(handle).map_err(code), model.free(handle));
        }
        Op::Free(_) => {}
        Op::FreeAll => {
            manager.free_all().unwrap();
            model.allocated.clear();
        }
        Op::Grow(capacity) => {
            open(at.path(), Some(capacity));
            model.capacity = model.capacity.max(capacity);
        }
        Op::Lock(id) => {
            let Some(lock) = manager.lock(id) else { return };
            let tried = lock.try_acquire();
            if model.held.contains_key(&id) {
                assert_eq!(tried, Err(Refusal::Own));
                return;
            }
            let acquired = tried.unwrap();
            assert!(!acquired.owner_died);
            let last = model.tokens.insert(id, acquired.token).unwrap_or(0);
            assert!(acquired.token > last, "tokens grow");
            model.held.insert(id, acquired.token);
        }
        Op::Unlock(id) => {
            let Some(lock) = manager.lock(id) else { return };
            let expected = model.held.remove(&id).map(drop).ok_or(Refusal::NotHeld);
            assert_eq!(lock.release(false), expected);
        }
    }
}

/// Each takes a segment, and a process with 32 bits has room for ten.
const CASES: u32 = if cfg!(target_pointer_width = "32") { 8 } else { 200 };

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]
    #[test]
    fn it_does_what_the_model_does(
        capacity in 1..MOST,
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let segment = TempSegment::new("model");
        let manager = open(segment.path(), Some(capacity));
        let mut model = Model { capacity, ..Model::default() };
        let mut handles = Vec::new();
        for op in ops {
            step(op, &manager, &mut model, &mut handles, &segment);
            prop_assert_eq!(manager.segment().capacity(), model.capacity);
            let free = model.capacity - model.allocated.len() as u32;
            prop_assert_eq!(manager.available(), free);
            let held: Vec<u32> = model.held.keys().copied().collect();
            prop_assert_eq!(manager.locks_held(), held);
        }
        for &id in model.held.keys() {
            manager.lock(id).unwrap().release(false).unwrap();
        }
    }
}
