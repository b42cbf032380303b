//! A lock whose gates are closed by writing a TID into their lock words, as a holder's would stand there.

use std::path::Path;

use robust_lock_core::{Lock, Manager};

use super::{GATES_AT, Peer, TURN_AT, TempSegment, patch, read, slot_at, word_offset};

pub struct Place {
    pub segment: TempSegment,
    pub manager: Manager,
    pub lock: Lock,
    /// A process that has the segment and holds nothing: closed gates name it.
    pub idle: Peer,
}

impl Place {
    pub fn new(name: &str) -> Self {
        let segment = TempSegment::new(name);
        let manager = segment.manager();
        let lock = manager.lock(manager.allocate().unwrap().id).unwrap();
        let mut idle = Peer::new();
        assert_eq!(idle.ask(&format!("open {}", segment.path().display())), "done");
        Self { segment, manager, lock, idle }
    }

    pub fn close(&self, gate: usize) {
        let at = slot_at(0) + GATES_AT[gate] + word_offset(self.segment.path());
        patch(self.segment.path(), at, &self.idle.child.id().to_ne_bytes());
    }

    pub fn open(&self, gate: usize) {
        let at = slot_at(0) + GATES_AT[gate] + word_offset(self.segment.path());
        patch(self.segment.path(), at, &[0; 4]);
    }

    pub fn gate_owner(&self, gate: usize) -> u32 {
        gate_owner(self.segment.path(), gate)
    }

    pub fn turn(&self) -> u32 {
        u32::from_ne_bytes(read(self.segment.path(), slot_at(0) + TURN_AT))
    }

    /// Whether somebody sleeps on main, as the mark in its word says.
    pub fn is_main_awaited(&self) -> bool {
        let at = slot_at(0) + word_offset(self.segment.path());
        u32::from_ne_bytes(read(self.segment.path(), at)) & 0x8000_0000 != 0
    }

    /// On a thread of its own: one that has just had a turn could come straight back.
    pub fn take(&self) {
        let lock = self.lock;
        std::thread::scope(|scope| scope.spawn(move || take(lock)).join().unwrap());
    }
}

pub fn gate_owner(path: &Path, gate: usize) -> u32 {
    let at = slot_at(0) + GATES_AT[gate] + word_offset(path);
    u32::from_ne_bytes(read(path, at)) & 0x3fff_ffff
}

pub fn take(lock: Lock) {
    lock.acquire(Some(60_000.0), &mut || true).unwrap();
    lock.release(false).unwrap();
}
