//! After a storm: every lock can be had, and the bitmap says what the ledger says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use robust_lock_core::Manager;

use super::page::{LOCKS, Page, Who, Wrong};
use super::worker;

/// Run in a process of its own, through the library.
pub fn audit(page: &Page, me: Who, path: &Path, capacity: u32, all_walked: bool) {
    let (manager, locks) = worker::open(path, capacity);
    // What the kernel has lost is still listed; without that, the dead hold nothing.
    if all_walked && !manager.locks_held().is_empty() {
        let held = manager.locks_held();
        page.note(Wrong::Failure, || format!("held by the dead: {held:?}"));
    }
    if let Err(what) = all_can_be_had(&manager) {
        page.note(Wrong::Leaked, || what);
    }
    for (id, lock) in locks.iter().enumerate() {
        match lock.acquire(Some(5_000.0), &mut || true) {
            Ok(acquired) => {
                page.enter(id, me, acquired);
                page.update(id, || {});
                page.exit(id, me);
                lock.release(false).unwrap();
            }
            Err(refusal) => {
                page.note(Wrong::Stuck, || format!("lock {id} after the storm: {refusal:?}"));
            }
        }
    }
    for id in LOCKS as u32..capacity {
        let Some(lock) = manager.lock(id) else { continue };
        match lock.acquire(Some(5_000.0), &mut || true) {
            Ok(_) => lock.release(false).unwrap(),
            Err(refusal) => {
                page.note(Wrong::Stuck, || format!("id {id} after the storm: {refusal:?}"));
            }
        }
    }
}

/// Allocates every id that is free; an owner that the kernel has lost is found by and by.
fn all_can_be_had(manager: &Manager) -> Result<(), String> {
    let (free, begun) = (manager.available(), Instant::now());
    let mut had = 0;
    while had < free {
        match manager.allocate() {
            Ok(_) => had += 1,
            Err(_) if begun.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(format!("of {free} free ids only {had} can be had: {error}")),
        }
    }
    Ok(())
}

/// How many ids are allocated that nobody has, by the file itself.
pub fn leaked(page: &Page, path: &Path, capacity: u32) -> u64 {
    let mut bits = vec![0; capacity.div_ceil(64) as usize * 8];
    File::open(path).unwrap().read_exact_at(&mut bits, 4096).unwrap();
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
    let words: Vec<u64> = bits.chunks(8).map(word).collect();
    let mut leaked = 0;
    for id in 0..capacity {
        let is_set = words[id as usize / 64] & (1 << (id % 64)) != 0;
        let owner = page.owners[id as usize].load(SeqCst);
        if (id as usize) < LOCKS {
            if !is_set {
                page.note(Wrong::LostAllocation, || format!("id {id}, allocated from the start"));
            }
        } else if is_set && owner == 0 {
            leaked += 1;
        } else if !is_set && owner != 0 {
            page.note(Wrong::LostAllocation, || format!("id {id} is {:?}'s", Who(owner)));
        }
    }
    leaked
}
