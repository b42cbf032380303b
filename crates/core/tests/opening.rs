//! Opening, creating and adopting segments, and what they meet. What is no segment: refusals.rs.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use robust_lock_core::{Code, Manager, Mode, OpenOptions};
use support::faults::deny;
use support::{
    Peer, STAMPS_AT, TempSegment, code, made_by_a_child, open, options, patch, read, refused,
    serve, slot_at, until,
};

/// `open PATH`: "ID created" or the code; `holes PATH`: what comes of holes on a full tmpfs; `chunks PATH`:
/// ids of new chunks until there is no room; `limit PATH`: opens with a limit on file sizes.
#[test]
fn child_entry() {
    serve(|words| {
        let path = PathBuf::from(words[1]);
        match words[0] {
            "open" => match Manager::open(&options(&path)) {
                Ok((manager, created)) => format!("{} {created}", manager.allocate().unwrap().id),
                Err(error) => error.code.as_str().to_owned(),
            },
            "chunks" => {
                let (manager, _) = Manager::open(&options(&path)).unwrap();
                let tried: Vec<_> = (0..8).map(|chunk| manager.retrieve(chunk * 256)).collect();
                let made = tried.iter().take_while(|retrieved| retrieved.is_ok()).count() as u32;
                assert!(tried[made as usize..].iter().all(Result::is_err), "in order");
                let refusal = tried.into_iter().find_map(Result::err);
                let code = refusal.map_or("none", |error| error.code.as_str());
                // What there was room for goes on.
                for id in 0..made * 256 {
                    manager.lock(id).unwrap().try_acquire().unwrap();
                    manager.lock(id).unwrap().release(false).unwrap();
                }
                format!("{made} {code}")
            }
            "holes" => {
                let (manager, _) = Manager::open(&options(&path)).unwrap();
                manager.allocate().unwrap();
                // Names two chunks that are not there.
                patch(&path, support::CHUNK_MAP_AT, &7u64.to_ne_bytes());
                let mut rest = File::create(path.with_extension("rest")).unwrap();
                while rest.write_all(&[1; 4096]).is_ok() {}
                let later = manager.retrieve(300).unwrap_err().code.as_str();
                let held = manager.locks_held();
                // And as a copy made with `cp --sparse` has it: a hole in the bitmap, of a page of any size.
                let file = File::options().write(true).open(&path).unwrap();
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&file, flags, 65_536, 65_536).unwrap();
                while rest.write_all(&[1; 4096]).is_ok() {}
                let opening = Peer::new().ask(&format!("open {}", path.display()));
                format!("{later} {held:?} {opening}")
            }
            "limit" => {
                let limit = nix::sys::resource::Resource::RLIMIT_FSIZE;
                nix::sys::resource::setrlimit(limit, 1 << 16, 1 << 16).unwrap();
                match Manager::open(&options(&path)) {
                    Ok((manager, _)) => format!("retrieved {}", manager.retrieve(300).unwrap().id),
                    Err(error) => error.code.as_str().to_owned(),
                }
            }
            "unlisted" => {
                // As in an emulator: a thread that starts from now on has no list.
                deny(&[nix::libc::SYS_set_robust_list], nix::libc::ENOSYS);
                Manager::open(&options(&path)).err().unwrap().code.as_str().to_owned()
            }
            _ => panic!("no such command: {words:?}"),
        }
    });
}

/// Each segment stays mapped until the process ends, and 32 bits have room for ten.
const FEW: bool = cfg!(target_pointer_width = "32");

#[test]
fn sixteen_first_openers_at_once() {
    let mut peers: Vec<Peer> = (0..16).map(|_| Peer::new()).collect();
    for round in 0..if FEW { 8 } else { 300 } {
        let segment = TempSegment::new("race");
        let line = format!("open {}", segment.path().display());
        // All are told before any is listened to.
        peers.iter_mut().for_each(|peer| peer.tell(&line));
        let answers: Vec<String> = peers.iter_mut().map(Peer::hear).collect();
        let created = answers.iter().filter(|answer| answer.ends_with("true")).count();
        let mut ids: Vec<u32> =
            answers.iter().filter_map(|answer| answer.split(' ').next()?.parse().ok()).collect();
        ids.sort_unstable();
        assert_eq!((created, ids.len()), (1, 16), "round {round}: {answers:?}");
        assert_eq!(ids, (0..16).collect::<Vec<_>>(), "round {round}");
    }
}

#[test]
fn openers_beside_those_who_delete() {
    const OPENS: usize = if FEW { 8 } else { 400 };
    let segment = TempSegment::new("deleted");
    let line = format!("open {}", segment.path().display());
    let mut peers: Vec<Peer> = (0..6).map(|_| Peer::new()).collect();
    let done = AtomicBool::new(false);
    let deleted = std::thread::scope(|scope| {
        let delete = || {
            let mut deleted = 0;
            while !done.load(Ordering::Relaxed) {
                deleted += u32::from(std::fs::remove_file(segment.path()).is_ok());
                std::thread::yield_now();
            }
            deleted
        };
        let deleters = [scope.spawn(delete), scope.spawn(delete)];
        for _ in 0..OPENS {
            peers.iter_mut().for_each(|peer| peer.tell(&line));
            for peer in &mut peers {
                // No refusal, and a lock of a whole segment.
                let answer = peer.hear();
                let id = answer.split(' ').next().and_then(|id| id.parse::<u32>().ok());
                if id.is_none() {
                    done.store(true, Ordering::Relaxed);
                    panic!("{answer}");
                }
            }
            until("a deletion", || !segment.path().exists());
        }
        done.store(true, Ordering::Relaxed);
        deleters.map(|deleter| deleter.join().unwrap()).iter().sum::<u32>()
    });
    assert!(deleted >= OPENS as u32, "{deleted} deletions");
}

#[test]
fn modes_and_capacities() {
    let segment = TempSegment::new("modes");
    assert_eq!(refused(segment.path(), Mode::Open).code, Code::NotFound);
    let small = open(segment.path(), Some(10));
    assert_eq!(refused(segment.path(), Mode::Create).code, Code::Exists);
    assert_eq!(small.retrieve(10).unwrap_err().code, Code::OutOfRange);
    assert_eq!(open(segment.path(), Some(20)).segment().capacity(), 20);
    assert_eq!(open(segment.path(), Some(5)).segment().capacity(), 20);
    assert_eq!((small.segment().capacity(), small.available()), (20, 20));
    for capacity in [0, (1 << 20) + 1] {
        let refused =
            Manager::open(&OpenOptions { capacity: Some(capacity), ..options(segment.path()) });
        assert_eq!(refused.err().unwrap().code, Code::OutOfRange);
    }
    let missing = segment.path().with_extension("folder").join("segment");
    assert_eq!(code(&missing), Code::NotFound);
}

#[test]
fn a_million_locks_cost_what_2048_cost() {
    let (small, large) = (TempSegment::new("small"), TempSegment::new("large"));
    open(small.path(), Some(2048));
    let last = (1 << 20) - 1;
    let (manager, created) = Manager::open(&OpenOptions {
        capacity: Some(last + 1),
        in_use: (0..last).collect(),
        ..options(large.path())
    })
    .unwrap();
    assert!(created);
    let blocks = |segment: &TempSegment| std::fs::metadata(segment.path()).unwrap().blocks();
    assert_eq!(blocks(&small), blocks(&large));
    assert_eq!(manager.available(), 1);
    assert_eq!(manager.allocate().unwrap().id, last);
    assert_eq!(manager.allocate().unwrap_err().code, Code::Exhausted);
    assert!(blocks(&large) - blocks(&small) <= 128, "one chunk of 64 KiB");
}

#[test]
fn ids_in_use_are_taken_from_the_first_instant() {
    let segment = TempSegment::new("in-use");
    let with =
        |in_use: Vec<u32>| OpenOptions { capacity: Some(8), in_use, ..options(segment.path()) };
    let refusal = Manager::open(&with(vec![1, 8])).err().unwrap();
    assert_eq!(refusal.code, Code::OutOfRange);
    assert!(!segment.path().exists(), "nothing was created");
    let (manager, created) = Manager::open(&with(vec![0, 2])).unwrap();
    assert!(created);
    assert_eq!([manager.allocate().unwrap().id, manager.allocate().unwrap().id], [1, 3]);
    let (_, created) = Manager::open(&with(vec![5])).unwrap();
    assert!(!created);
    assert_eq!(manager.allocate().unwrap().id, 4, "ignored");
    assert_eq!(manager.allocate().unwrap().id, 5);
}

#[test]
fn a_limit_on_file_sizes_is_no_space() {
    let segment = TempSegment::new("limit");
    let answer = Peer::new().ask(&format!("limit {}", segment.path().display()));
    assert_eq!(answer, Code::NoSpace.as_str());
    assert!(!segment.path().exists());
    // What is there is not made larger.
    let there = made_by_a_child("limit-there");
    let answer = Peer::new().ask(&format!("limit {}", there.path().display()));
    assert_eq!(answer, "retrieved 300");
    // Nor does one that would have to be adopted raise SIGXFSZ.
    let left = made_by_a_child("limit-adopt");
    patch(left.path(), STAMPS_AT, &[7; 32]);
    let answer = Peer::new().ask(&format!("limit {}", left.path().display()));
    assert_eq!(answer, Code::NoSpace.as_str());
    assert_eq!(read::<32>(left.path(), STAMPS_AT), [7; 32], "it is as it was");
    assert_eq!(left.manager().available(), 2047);
}

#[test]
fn a_kernel_without_robust_lists_is_refused() {
    let segment = TempSegment::new("unlisted");
    let answer = Peer::new().ask(&format!("unlisted {}", segment.path().display()));
    assert_eq!(answer, Code::NotRobust.as_str());
    assert!(!segment.path().exists());
}

/// A child in mount and user namespaces of its own, with a tmpfs of that size; None if not allowed.
fn on_tmpfs(size: &str) -> Option<(TempSegment, Peer)> {
    let folder = TempSegment::new("tmpfs");
    std::fs::create_dir(folder.path()).unwrap();
    let unshare = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    if !Command::new("unshare").args([unshare, "true"]).status().is_ok_and(|s| s.success()) {
        println!("not run: unshare is not allowed here");
        return None;
    }
    let mut command = Command::new("unshare");
    let mount = r#"mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@""#;
    command.args([unshare, "sh", "-c", mount, "sh", size]).arg(folder.path());
    command.arg(std::env::current_exe().unwrap());
    Some((folder, Peer::through(command)))
}

#[test]
fn a_full_tmpfs_is_no_space_and_no_sigbus() {
    if let Some((folder, mut peer)) = on_tmpfs("64k") {
        let path = folder.path().join("segment");
        assert_eq!(peer.ask(&format!("open {}", path.display())), Code::NoSpace.as_str());
        assert_eq!(peer.ask(&format!("open {}", path.display())), Code::NoSpace.as_str());
    }
    // Room for no chunk, for one, for two ...
    for chunks in 0..5 {
        if let Some((folder, mut peer)) = on_tmpfs(&format!("{}k", 192 + chunks * 64)) {
            let path = folder.path().join("segment");
            let answer = peer.ask(&format!("chunks {}", path.display()));
            assert_eq!(answer, format!("{chunks} {}", Code::NoSpace.as_str()));
        }
    }
    if let Some((folder, mut peer)) = on_tmpfs("640k") {
        let path = folder.path().join("segment");
        let no_space = Code::NoSpace.as_str();
        let answer = peer.ask(&format!("holes {}", path.display()));
        assert_eq!(answer, format!("{} [] {no_space}", Code::Corrupt.as_str()));
    }
}

#[test]
fn what_another_world_left_is_adopted() {
    let foreign = [7u8; 32];
    for stamps in [foreign, [0; 32]] {
        let segment = TempSegment::new("adopt");
        let path = segment.path();
        let mut child = Peer::new();
        assert_eq!(child.ask(&format!("open {}", path.display())), "0 true");
        child.kill();
        // As a container leaves it: locked by a TID that means somebody else here, in the middle of a
        // section, with both gates closed and the admin mutex taken.
        let word = support::word_offset(path);
        let me = std::process::id().to_ne_bytes();
        for at in [slot_at(0), slot_at(0) + 64, slot_at(0) + 128, support::ADMIN_AT] {
            patch(path, at + word, &me);
        }
        let generation: [u8; 4] = read(path, slot_at(0) + 52);
        let dirty = u32::from_ne_bytes(generation) | 1 << 31;
        patch(path, slot_at(0) + support::DIRTY_AT, &dirty.to_ne_bytes());
        let token = u64::from_ne_bytes(read(path, slot_at(0) + 56));
        patch(path, STAMPS_AT, &stamps);
        let manager = segment.manager();
        assert_eq!(manager.available(), 2047, "the allocation stays");
        let lock = manager.lock(0).unwrap();
        let acquired = lock.acquire(Some(60_000.0), &mut || true).unwrap();
        assert!(acquired.owner_died, "the section was not finished");
        assert_eq!(acquired.token, token + 1);
        lock.release(false).unwrap();
        assert_eq!(manager.retrieve(300).unwrap().id, 300, "admin works");
        assert_ne!(read::<32>(path, STAMPS_AT), stamps);
    }
}

#[test]
fn what_another_world_left_is_adopted_and_kept() {
    let segment = made_by_a_child("adopt-and-keep");
    patch(segment.path(), STAMPS_AT, &[7; 32]);
    segment.manager();
    // A third world comes while we have it: our shared flock keeps it away.
    patch(segment.path(), STAMPS_AT, &[9; 32]);
    let line = format!("open {}", segment.path().display());
    assert_eq!(Peer::new().ask(&line), Code::PidNamespace.as_str());
}

#[test]
fn opening_again_beside_others_keeps_the_flock() {
    let segment = TempSegment::new("again");
    let line = format!("open {}", segment.path().display());
    segment.manager();
    let mut other = Peer::new();
    assert_eq!(other.ask(&line), "0 false");
    // A conversion would fail now, and lose the lock that it has.
    segment.manager();
    other.kill();
    patch(segment.path(), STAMPS_AT, &[9; 32]);
    assert_eq!(Peer::new().ask(&line), Code::PidNamespace.as_str());
}

#[test]
fn what_another_world_has_open_is_refused() {
    let segment = TempSegment::new("foreign");
    let mut child = Peer::new();
    child.ask(&format!("open {}", segment.path().display()));
    let stamps: [u8; 32] = read(segment.path(), STAMPS_AT);
    patch(segment.path(), STAMPS_AT, &[7; 32]);
    assert_eq!(code(segment.path()), Code::PidNamespace);
    patch(segment.path(), STAMPS_AT, &[0; 32]);
    assert_eq!(code(segment.path()), Code::Stalled, "an adoption that does not get on");
    patch(segment.path(), STAMPS_AT, &stamps);
    segment.manager();
}

#[test]
fn a_deleted_segment_goes_on_and_says_so() {
    let segment = TempSegment::new("deleted");
    let manager = segment.manager();
    assert!(!manager.segment().is_stale());
    std::fs::remove_file(segment.path()).unwrap();
    assert!(manager.segment().is_stale());
    manager.allocate().unwrap();
    let (other, created) = Manager::open(&options(segment.path())).unwrap();
    assert!(created && !std::ptr::eq(other.segment(), manager.segment()));
}
