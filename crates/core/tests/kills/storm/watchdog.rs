//! The watchdog: a lock is free, and its waiters sleep on.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::page::{LOCKS, PLACES, Page, Who, Wrong};
use super::supervisor::word;

const INTERVAL: Duration = Duration::from_millis(50);
/// How long a waiter may sleep beside a free lock.
const LIMIT: Duration = Duration::from_secs(1);
/// The same if the kernel has lost the owner of one of the lock's mutexes: waiters look for such a one
/// at the end of a slice.
const LOST_LIMIT: Duration = Duration::from_secs(5);
/// So many looks at least: a watchdog that did not run knows nothing of the time between.
const LOOKS: u32 = 10;

pub struct Watchdog {
    path: PathBuf,
    last: Instant,
    locks: [Asleep; LOCKS],
    pub longest: Duration,
    pub barked: bool,
}

/// Since when a lock is free and all of its waiters are asleep.
#[derive(Clone, Copy)]
struct Asleep {
    since: Instant,
    looks: u32,
    acquisitions: u64,
}

impl Watchdog {
    pub fn new(path: &Path) -> Self {
        let now = Instant::now();
        let asleep = Asleep { since: now, looks: 0, acquisitions: 0 };
        let locks = [asleep; LOCKS];
        Self { path: path.to_owned(), last: now, locks, longest: Duration::ZERO, barked: false }
    }

    pub fn look(&mut self, page: &Page, pids: &[Option<Pid>; PLACES]) {
        let now = Instant::now();
        if now - self.last < INTERVAL {
            return;
        }
        self.last = now;
        for lock in 0..LOCKS {
            let asleep = &mut self.locks[lock];
            let acquisitions = page.records[lock].acquisitions.load(SeqCst);
            let moved = acquisitions != asleep.acquisitions;
            asleep.acquisitions = acquisitions;
            if moved || !is_left_alone(page, lock, pids) {
                (asleep.since, asleep.looks) = (now, 0);
                continue;
            }
            asleep.looks += 1;
            let free_for = now - asleep.since;
            let is_lost = has_lost_owner(&self.path, lock);
            if !is_lost {
                self.longest = self.longest.max(free_for);
            }
            let limit = if is_lost { LOST_LIMIT } else { LIMIT };
            if free_for > limit && asleep.looks > LOOKS {
                let words = words(&self.path, lock);
                page.note(Wrong::Stuck, || {
                    format!("lock {lock} is free for {free_for:?}, its words are {words:x?}")
                });
                self.barked = true;
            }
        }
    }
}

/// Nobody is inside, there are waiters, and none of them runs or wants to run.
fn is_left_alone(page: &Page, lock: usize, pids: &[Option<Pid>; PLACES]) -> bool {
    let holder = Who(page.records[lock].holder.load(SeqCst));
    if holder.0 != 0 && !page.is_over(holder) {
        return false;
    }
    let at = |place: &usize| page.places[*place].at.load(SeqCst) & (1 << lock) != 0;
    let around: Vec<usize> = (0..PLACES).filter(at).collect();
    let waits = |&place: &usize| page.places[place].waiting.load(SeqCst) == lock as u32 + 1;
    !around.is_empty()
        && around.iter().all(waits)
        && around.iter().all(|&place| pids[place].is_some_and(is_asleep))
}

/// Whether all threads of a process sleep.
fn is_asleep(pid: Pid) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

/// The lock words of main and the two gates.
fn words(path: &Path, lock: usize) -> [u32; 3] {
    let slot = 196_608 + lock as u64 * 256;
    [0, 64, 128].map(|mutex| word(path, slot + mutex).unwrap_or(0))
}

fn has_lost_owner(path: &Path, lock: usize) -> bool {
    words(path, lock).iter().map(|word| word & 0x3fff_ffff).any(|tid| {
        let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        tid != 0 && matches!(state, None | Some(b'Z' | b'X'))
    })
}
