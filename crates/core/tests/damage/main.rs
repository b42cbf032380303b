//! Damaged segments: refused with a code, or opened and used as far as they go; never a crash or a hang.
//!
//! A table of damages that matter, each with what must come of it; then a seeded generator damages copies
//! of three segments (fresh; used; left by another world). Children do it, so that the end of one would
//! be noticed; each has a seed, and ROBUST_LOCK_TEST_SEED=… repeats one. What a live process runs
//! through, the lists in the mutexes that it holds, is not damaged here: that is beyond help.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod random;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use random::{HEADER_KINDS, KINDS, damage, noise};
use robust_lock_core::{Code, Error, Handle, Lock, MAX_LOCKS, Manager, Mode, OpenOptions, Refusal};
use support::{
    ADMIN_AT, BITMAP_AT, CHUNK_MAP_AT, GATES_AT, Peer, SLOTS_AT, STAMPS_AT, TempSegment, open,
    serve, watchdog,
};

/// Each child has a seed and damages so many segments, which it keeps open if they open. With musl they come
/// after those with glibc, on the same machine: a quarter will do.
const SEEDS: u32 = if cfg!(target_env = "musl") { 50 } else { 200 };
const CASES: u32 = 500;
/// So many children at a time: an adoption sleeps for a millisecond.
const LANES: u32 = 4;
/// How many segments a child can have open: there are not so many addresses in 32 bits.
const MOST_OPEN: u32 = if usize::BITS == 64 { CASES } else { 6 };

const FILE_BYTES: u64 = SLOTS_AT + (256 << 20) + (96 << 20);
const HINTS_AT: u64 = BITMAP_AT + 131_072;
const CHUNK_MAP_END: u64 = CHUNK_MAP_AT + 512;
const MUTEX: u64 = 48;
/// What of a segment is copied: all that its first chunk needs.
const COPIED: u64 = SLOTS_AT + 65_536;

/// `known WHICH PATH`; `damaged SEED PATH`: "N opened, N refused"; `hold PATH`, and then `release PATH`.
#[test]
fn child_entry() {
    serve(|words| match words[0] {
        "known" => known_damage(&KNOWN[words[1].parse::<usize>().unwrap()], Path::new(words[2])),
        "damaged" => damage_and_open(words[1].parse().unwrap(), Path::new(words[2])),
        "hold" => {
            let manager = open(Path::new(words[1]), None);
            let held = (0..3).map(|_| manager.lock(manager.allocate().unwrap().id).unwrap());
            held.map(|lock| lock.try_acquire().unwrap().token.to_string()).collect()
        }
        "release" => {
            let manager = open(Path::new(words[1]), None);
            let release = |id| manager.lock(id).unwrap().release(false).is_ok();
            format!("{:?}", [1, 0, 2].map(release))
        }
        _ => panic!("no such command: {words:?}"),
    });
}

/// In a folder of its own.
fn ask(line: &str) -> String {
    let folder = TempSegment::new("damage");
    std::fs::create_dir(folder.path()).unwrap();
    let mut peer = Peer::new();
    let line = format!("{line} {}", folder.path().join("segment").display());
    peer.tell(&line);
    peer.hear_or_end().unwrap_or_else(|| panic!("{line}: it died"))
}

#[test]
fn what_a_damage_leads_to() {
    for (which, known) in KNOWN.iter().enumerate() {
        assert_eq!(ask(&format!("known {which}")), "as it must be", "{known:?}");
    }
}

#[test]
fn a_hundred_thousand_damaged_segments_are_opened_or_refused() {
    if let Ok(seed) = std::env::var("ROBUST_LOCK_TEST_SEED") {
        println!("{}", ask(&format!("damaged {seed}")));
        return;
    }
    // An emulated processor is a hundred times slower.
    let seeds = if watchdog() > Duration::from_secs(60) { LANES } else { SEEDS };
    let (opened, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (opened, refused) = (&opened, &refused);
            scope.spawn(move || {
                for seed in (lane..seeds).step_by(LANES as usize) {
                    let answer = ask(&format!("damaged {seed}"));
                    let words: Vec<&str> = answer.split(' ').collect();
                    opened.fetch_add(words[0].parse().unwrap(), Ordering::Relaxed);
                    refused.fetch_add(words[2].parse().unwrap(), Ordering::Relaxed);
                }
            });
        }
    });
    let (opened, refused) = (opened.into_inner(), refused.into_inner());
    println!("{opened} opened, {refused} refused");
    assert!(opened + refused == seeds * CASES || MOST_OPEN < CASES);
    assert!(opened.min(refused) > (opened + refused) / 5, "both ways are tried");
}

/// A segment's bytes: pages that are not zero, and where they stand.
struct Base(Vec<(u64, Vec<u8>)>);

impl Base {
    fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut page = vec![0; 4096];
        let pages = (0..COPIED / 4096).filter_map(|number| {
            file.read_exact_at(&mut page, number * 4096).unwrap();
            page.iter().any(|&byte| byte != 0).then(|| (number * 4096, page.clone()))
        });
        Self(pages.collect())
    }

    /// A copy of it, sparser than a segment.
    fn copy(&self, path: &Path) -> File {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.unwrap();
        file.set_len(FILE_BYTES).unwrap();
        self.write(&file);
        file
    }

    fn write(&self, file: &File) {
        for (at, bytes) in &self.0 {
            file.write_all_at(bytes, *at).unwrap();
        }
    }
}

/// A segment with a chunk, and, if it is used, with 101 allocations and a lock 0 whose holder died inside.
fn base(folder: &Path, used: bool) -> Base {
    let path = folder.join(format!("used-{used}"));
    let manager = open(&path, Some(600));
    let lock = manager.lock(manager.allocate().unwrap().id).unwrap();
    if used {
        (0..100).for_each(|_| assert!(manager.allocate().is_ok()));
        std::thread::spawn(move || assert!(lock.try_acquire().is_ok())).join().unwrap();
    }
    Base::read(&path)
}

/// To make its mutexes anew would tear the lists of those who hold them.
#[test]
fn a_chunk_that_the_map_has_lost_keeps_its_holders() {
    let segment = TempSegment::new("lost-chunk");
    let path = segment.path();
    let mut holder = Peer::new();
    holder.ask(&format!("hold {}", path.display()));
    support::patch(path, CHUNK_MAP_AT, &[0; 512]);
    let manager = segment.manager();
    let locks = [0, 1, 2].map(|id| {
        manager.retrieve(id).unwrap();
        manager.lock(id).unwrap()
    });
    assert_eq!(locks.map(|lock| lock.try_acquire()), [Err(Refusal::Busy); 3]);
    let released = format!("release {}", path.display());
    assert_eq!(holder.ask(&released), "[true, true, true]");
    for lock in locks {
        lock.acquire(None, &mut || true).unwrap();
        lock.release(false).unwrap();
    }
}

/// What is gone from a mapped file cannot be touched: the kernel ends who does. The process that cuts it
/// short is one of the same user; nothing can be done about it.
#[test]
fn a_segment_that_is_cut_short_ends_who_uses_it() {
    let segment = TempSegment::new("cut");
    let path = segment.path();
    let mut holder = Peer::new();
    holder.ask(&format!("hold {}", path.display()));
    File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
    let refusal = Manager::open(&support::options(path)).err().unwrap();
    assert_eq!(refusal.code, Code::Corrupt);
    holder.tell(&format!("release {}", path.display()));
    assert_eq!(holder.hear_or_end(), None);
    assert_eq!(holder.child.wait().unwrap().signal(), Some(nix::libc::SIGBUS));
}

/// Damages that once broke something, or stand at the edge of a field: where, with which byte, how many
/// of it; what opening says, and then retrieving and locking lock 0, and retrieving lock 300.
type Known = (u64, u8, u64, Result<(), Code>, Result<(), Code>, Result<(), Code>);
/// Where in a word of the map the bits of the first eight chunks stand.
const LOW_BYTE: u64 = if cfg!(target_endian = "big") { 7 } else { 0 };
const FINE: Result<(), Code> = Ok(());
const CORRUPT: Result<(), Code> = Err(Code::Corrupt);
const OTHER_BUILD: Result<(), Code> = Err(Code::Incompatible);
const KNOWN: &[Known] = &[
    (0, 0, 1, CORRUPT, FINE, FINE),
    (0, 0, 4096, CORRUPT, FINE, FINE),
    (8, 0xff, 4, OTHER_BUILD, FINE, FINE),
    (12, 0xff, 4, OTHER_BUILD, FINE, FINE),
    (48, 0xff, 8, OTHER_BUILD, FINE, FINE),
    (56, 0xff, 8, CORRUPT, FINE, FINE),
    (64, 0xff, 1, OTHER_BUILD, FINE, FINE),
    // Behind the image, and behind the stamps: nobody reads that.
    (112, 0xff, 16, FINE, FINE, FINE),
    (160, 0xff, 32, FINE, FINE, FINE),
    // Another world's stamps, and none: adopted.
    (STAMPS_AT, 0x07, 32, FINE, FINE, FINE),
    (STAMPS_AT, 0, 32, FINE, FINE, FINE),
    (192, 0, 4, CORRUPT, FINE, FINE),
    (192, 0xff, 4, CORRUPT, FINE, FINE),
    // The admin mutex; glibc aborts with some kinds of it.
    (ADMIN_AT, 0, MUTEX, CORRUPT, FINE, FINE),
    (ADMIN_AT, 0xff, MUTEX, CORRUPT, FINE, FINE),
    (ADMIN_AT, 0x50, MUTEX, CORRUPT, FINE, FINE),
    (ADMIN_AT + MUTEX, 0xff, 80, FINE, FINE, FINE),
    // Everything is allocated; no hint is right.
    (BITMAP_AT, 0xff, 131_072, FINE, FINE, FINE),
    (HINTS_AT, 0xff, 2048 + 32, FINE, FINE, FINE),
    // The map has lost the first chunk; names a second one, and all, which are not there.
    (CHUNK_MAP_AT, 0, 8, FINE, FINE, FINE),
    (CHUNK_MAP_AT + LOW_BYTE, 0x03, 1, FINE, FINE, CORRUPT),
    (CHUNK_MAP_AT, 0xff, 512, FINE, FINE, CORRUPT),
    // Lock 0: a mutex that is none, or any of our own fields.
    (SLOTS_AT, 0, MUTEX, FINE, CORRUPT, FINE),
    (SLOTS_AT, 0x50, MUTEX, FINE, CORRUPT, FINE),
    (SLOTS_AT + GATES_AT[0], 0xff, MUTEX, FINE, CORRUPT, FINE),
    (SLOTS_AT + GATES_AT[1], 0x50, MUTEX, FINE, CORRUPT, FINE),
    (SLOTS_AT + 48, 0xff, 16, FINE, FINE, FINE),
    (SLOTS_AT + 112, 0xff, 16, FINE, FINE, FINE),
    (SLOTS_AT + 176, 0xff, 80, FINE, FINE, FINE),
    (SLOTS_AT, 0, 65_536, FINE, CORRUPT, FINE),
];

fn known_damage(&(at, byte, len, opening, first, second): &Known, path: &Path) -> String {
    let file = base(path.parent().unwrap(), true).copy(path);
    file.write_all_at(&vec![byte; len as usize], at).unwrap();
    let code = |error: Error| error.code;
    let opened = Manager::open(&OpenOptions { mode: Mode::Open, ..support::options(path) });
    assert_eq!(opened.as_ref().map(drop).map_err(|error| error.code), opening);
    if let Ok((manager, _)) = opened {
        assert_eq!(manager.retrieve(0).map(drop).map_err(code), first);
        assert_eq!(manager.retrieve(300).map(drop).map_err(code), second);
        assert_eq!(manager.lock(0).is_some(), first.is_ok());
        if let Some(lock) = manager.lock(0) {
            lock.acquire(None, &mut || true).unwrap();
            lock.release(false).unwrap();
        }
        use_it(&manager, &mut Rng::with_seed(at));
    }
    "as it must be".to_owned()
}

fn damage_and_open(seed: u64, path: &Path) -> String {
    let mut random = Rng::with_seed(seed);
    let folder = path.parent().unwrap();
    let bases = [base(folder, false), base(folder, true)];
    let word = support::word_offset(&folder.join("used-true"));
    let (mut opened, mut refused) = (0, 0);
    while opened + refused < CASES && opened < MOST_OPEN {
        let base = &bases[random.usize(..2)];
        let file = base.copy(path);
        // The same file again and again, until one is opened: that one stays open.
        while opened + refused < CASES && opened < MOST_OPEN {
            // The header's always, and perhaps others.
            let mut damages = vec![damage(&mut random, HEADER_KINDS, word)];
            (0..random.u32(..3)).for_each(|_| damages.push(damage(&mut random, KINDS, word)));
            if random.u32(..50) == 0 {
                damages.push((STAMPS_AT, noise(&mut random, 8)));
            }
            for (at, bytes) in &damages {
                file.write_all_at(bytes, *at).unwrap();
            }
            let odd = random.u32(..50) == 0;
            if odd {
                file.set_len([0, 100, 4096, COPIED, FILE_BYTES + 1][random.usize(..5)]).unwrap();
            }
            let mode = [Mode::Open, Mode::OpenOrCreate][random.usize(..2)];
            let capacity = [None, Some(10), Some(600), Some(MAX_LOCKS)][random.usize(..4)];
            let options = OpenOptions { path: path.to_owned(), mode, capacity, in_use: vec![] };
            match Manager::open(&options) {
                Ok((manager, created)) => {
                    assert!(!created);
                    opened += 1;
                    use_it(&manager, &mut random);
                    break;
                }
                Err(error) => {
                    assert!(matches!(error.code, Code::Corrupt | Code::Incompatible), "{error}");
                    assert!(error.message.len() > 20, "{error}");
                    refused += 1;
                }
            }
            if odd {
                file.set_len(FILE_BYTES).unwrap();
            }
            for (at, bytes) in &damages {
                file.write_all_at(&vec![0; bytes.len()], *at).unwrap();
            }
            base.write(&file);
        }
        std::fs::remove_file(path).unwrap();
    }
    format!("{opened} opened, {refused} refused")
}

/// Whatever the answers are.
fn use_it(manager: &Manager, random: &mut Rng) {
    assert!(manager.segment().capacity() <= MAX_LOCKS);
    assert!(manager.available() <= MAX_LOCKS);
    manager.locks_held();
    let beyond = [256, 599, random.u32(..MAX_LOCKS), MAX_LOCKS, u32::MAX];
    let ids = [0, 1, 2, 3, 255, beyond[random.usize(..beyond.len())]];
    for id in ids {
        let _ = manager.retrieve(id);
        if let Some(lock) = manager.lock(id) {
            use_lock(&lock);
        }
    }
    let mut mine: Vec<Handle> = (0..3).filter_map(|_| manager.allocate().ok()).collect();
    mine.extend(manager.allocate_given(random.u32(..300)).ok());
    for handle in mine {
        if let Some(lock) = manager.lock(handle.id) {
            use_lock(&lock);
        }
        let _ = manager.free(handle);
    }
    let _ = manager.free(Handle { id: ids[random.usize(..ids.len())], generation: Some(7) });
    manager.free_all().unwrap();
}

fn use_lock(lock: &Lock) {
    if let Ok(first) = lock.try_acquire() {
        let _ = lock.hand_over(first.owner_died);
        lock.release(false).unwrap();
    }
    if lock.acquire(Some(0.05), &mut || true).is_ok() {
        lock.release(true).unwrap();
    }
    if !lock.is_held()
        && let Ok(won) = lock.wait_for_turn(&mut || false, &mut || true)
    {
        won.open_gate();
    }
}
