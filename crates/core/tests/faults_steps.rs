//! Killed after every single system call of a creation, an adoption, a chunk's commit and a recovery:
//! the next one does it again, and nothing is left lying about.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use robust_lock_core::{Code, Manager, OpenOptions, Refusal};
use support::faults::{gettid, owner, unlist};
use support::steps::{killed_after, stopped_after};
use support::{
    ADMIN_AT, Peer, STAMPS_AT, TempSegment, open, options, patch, serve, slot_at, until,
    word_offset,
};

/// `tid`; `open PATH`, `lock ID`, `try ID`, `retrieve ID`, `unlist`; `created PATH`: whether it was, and how many
/// are available; `works`; `adopted PATH`.
#[test]
fn child_entry() {
    let mut manager: Option<Manager> = None;
    serve(|words| {
        let id = || words[1].parse().unwrap();
        match words[0] {
            "tid" => return gettid().to_string(),
            "open" => manager = Some(created(Path::new(words[1])).0),
            "lock" => {
                let handle = manager.unwrap().retrieve(id()).unwrap();
                let lock = manager.unwrap().lock(handle.id).unwrap();
                lock.acquire(None, &mut || true).unwrap();
            }
            "try" => drop(manager.unwrap().lock(id()).unwrap().try_acquire().unwrap()),
            "retrieve" => assert_eq!(manager.unwrap().retrieve(id()).unwrap().id, id()),
            "unlist" => unlist(),
            "created" => {
                let (opened, created) = created(Path::new(words[1]));
                manager = Some(opened);
                return format!("{created} {}", opened.available());
            }
            "works" => works(&manager.unwrap()),
            "adopted" => look_at_the_adopted(Path::new(words[1])),
            _ => panic!("no such command: {words:?}"),
        }
        "done".to_owned()
    });
}

fn created(path: &Path) -> (Manager, bool) {
    Manager::open(&OpenOptions { in_use: vec![3], ..options(path) }).unwrap()
}

/// A child, killed at each place of `command` in turn; `look` is called after each death. (Who opens the segment
/// then is a child, too: another one each time, for a process with 32 bits has room for ten.)
fn at_each_place(prepare: impl Fn(usize) -> Peer, command: &str, look: impl Fn(usize)) {
    for n in 0.. {
        let was_killed = killed_after(&mut prepare(n), command, n);
        look(n);
        if !was_killed {
            println!("{command}: {n} system calls");
            assert!(n > 3, "{command} takes only {n} system calls");
            return;
        }
        assert!(n < 2_000, "{command} does not end");
    }
}

/// Locks, allocates and grows.
fn works(manager: &Manager) {
    for id in [manager.allocate().unwrap().id, manager.retrieve(700).unwrap().id] {
        let lock = manager.lock(id).unwrap();
        lock.acquire(Some(60_000.0), &mut || true).unwrap();
        lock.release(false).unwrap();
    }
}

#[test]
fn a_creator_killed_at_every_step_leaves_a_whole_segment_or_nothing() {
    let folder = TempSegment::new("creator");
    std::fs::create_dir(folder.path()).unwrap();
    let path = folder.path().join("segment");
    let command = format!("open {}", path.display());
    at_each_place(
        |_| Peer::new(),
        &command,
        |n| {
            let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(left.len(), usize::from(path.exists()), "call {n}: {left:?}");
            let mut looker = Peer::new();
            let answer = looker.ask(&format!("created {}", path.display()));
            // Also if the dead one has made it: its ids in use are in it from the first instant.
            assert_eq!(answer, format!("{} 2047", left.is_empty()), "call {n}");
            assert_eq!(looker.ask("works"), "done", "call {n}");
            std::fs::remove_file(&path).unwrap();
        },
    );
}

/// It has no name before it is whole: whoever comes meanwhile makes another one.
#[test]
fn a_creator_stopped_anywhere_is_in_nobodys_way() {
    let segment = TempSegment::new("creator-stopped");
    let command = format!("open {}", segment.path().display());
    for n in 0.. {
        let mut creator = Peer::new();
        let stopped = stopped_after(&mut creator, &command, n);
        let was_there = segment.path().exists();
        let mut looker = Peer::new();
        let answer = looker.ask(&format!("created {}", segment.path().display()));
        assert_eq!(answer, format!("{} 2047", !was_there), "call {n}");
        assert_eq!(looker.ask("works"), "done", "call {n}");
        let is_done = stopped.is_done;
        drop(stopped);
        assert_eq!(looker.ask("works"), "done", "call {n}");
        std::fs::remove_file(segment.path()).unwrap();
        if is_done {
            return;
        }
    }
}

/// What it then says of the others would be its own doing.
#[test]
fn a_creator_that_was_stopped_for_long_opens_what_another_has_made() {
    let segment = TempSegment::new("creator-late");
    let command = format!("open {}", segment.path().display());
    let is_made = |n| {
        let mut creator = Peer::new();
        drop(stopped_after(&mut creator, &command, n));
        std::fs::remove_file(segment.path()).is_ok()
    };
    let made_after = (0..).find(|&n| is_made(n)).unwrap();
    // It does not always take as many calls.
    for n in (0..made_after).rev() {
        let mut creator = Peer::new();
        let stopped = stopped_after(&mut creator, &command, n);
        if segment.path().exists() {
            std::fs::remove_file(segment.path()).unwrap();
            continue;
        }
        assert!(created(segment.path()).1);
        let begun = Instant::now();
        until("an opener's patience is over", || begun.elapsed() > Duration::from_millis(1_100));
        assert_eq!(stopped.go_on(), "done");
        return;
    }
    panic!("it cannot be stopped before the segment is there");
}

#[test]
fn an_adopter_killed_at_every_step_leaves_the_adoption_to_the_next() {
    let template = left_by_another_world();
    let folder = TempSegment::new("adopter");
    std::fs::create_dir(folder.path()).unwrap();
    let path = folder.path().join("segment");
    let command = format!("open {}", path.display());
    let leave_it_again = |_| {
        let _ = std::fs::remove_file(&path);
        copy(template.path(), &path);
        Peer::new()
    };
    at_each_place(leave_it_again, &command, |n| {
        is_adopted(&path, &format!("call {n}"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "call {n}");
    });
}

/// What it has begun nobody else can do: until it ends.
#[test]
fn an_adopter_stopped_in_the_middle_is_an_error_until_it_ends() {
    let template = left_by_another_world();
    let segment = TempSegment::new("adopter-stopped");
    let command = format!("open {}", segment.path().display());
    let mut refused = 0;
    // It takes some 60 calls.
    for n in (0..60).step_by(6) {
        let _ = std::fs::remove_file(segment.path());
        copy(template.path(), segment.path());
        let mut adopter = Peer::new();
        let stopped = stopped_after(&mut adopter, &command, n);
        if let Err(error) = Manager::open(&options(segment.path())) {
            // Before or after it has taken the stamps away.
            assert!(matches!(error.code, Code::Stalled | Code::PidNamespace), "call {n}: {error}");
            refused += 1;
        }
        drop(stopped);
        is_adopted(segment.path(), &format!("call {n}"));
    }
    assert!(refused > 0);
}

/// A segment with two chunks and two sections that have not been finished.
fn left_by_another_world() -> TempSegment {
    let template = TempSegment::new("left");
    let mut holder = Peer::new();
    let opened = format!("open {}", template.path().display());
    for command in [&opened, "lock 0", "lock 300", "unlist"] {
        assert_eq!(holder.ask(command), "done");
    }
    holder.kill();
    assert_ne!(owner(template.path(), slot_at(0)), 0, "lost by the kernel");
    // Of a PID namespace that is not ours: here the TIDs in it are those of a process that lives.
    let me = std::process::id().to_ne_bytes();
    for mutex in [slot_at(0), slot_at(300), ADMIN_AT] {
        patch(template.path(), mutex + word_offset(template.path()), &me);
    }
    patch(template.path(), STAMPS_AT, &[7; 32]);
    template
}

fn is_adopted(path: &Path, when: &str) {
    let mut looker = Peer::new();
    looker.tell(&format!("adopted {}", path.display()));
    assert_eq!(looker.hear_or_end().as_deref(), Some("done"), "{when}");
}

fn look_at_the_adopted(path: &Path) {
    let (manager, created) = created(path);
    assert!(!created);
    assert_eq!(manager.available(), 2047, "the allocation stays");
    for id in [0, 300] {
        let lock = manager.lock(id).unwrap();
        assert!(lock.acquire(Some(60_000.0), &mut || true).unwrap().owner_died);
        lock.release(false).unwrap();
    }
    works(&manager);
}

/// A sparse copy of a segment with two chunks.
fn copy(from: &Path, to: &Path) {
    let from = std::fs::File::open(from).unwrap();
    let mut bytes = vec![0; slot_at(512) as usize];
    from.read_exact_at(&mut bytes, 0).unwrap();
    let to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).unwrap();
    to.write_all_at(&bytes, 0).unwrap();
    to.set_len(from.metadata().unwrap().len()).unwrap();
}

#[test]
fn a_committer_killed_at_every_step_leaves_the_chunk_to_the_next() {
    let segment = TempSegment::new("commit");
    let manager = open(segment.path(), Some(1 << 20));
    let prepare = |_| {
        let mut peer = Peer::new();
        assert_eq!(peer.ask(&format!("open {}", segment.path().display())), "done");
        peer
    };
    // Another chunk each time.
    for n in 0.. {
        let id = (n as u32 + 1) * 256 + 7;
        let was_killed = killed_after(&mut prepare(n), &format!("retrieve {id}"), n);
        manager.retrieve(id).unwrap();
        let lock = manager.lock(id).unwrap();
        assert!(!lock.acquire(Some(60_000.0), &mut || true).unwrap().owner_died, "call {n}");
        lock.release(false).unwrap();
        if !was_killed {
            assert!(n > 1, "fallocate, and the answer");
            return;
        }
    }
}

#[test]
fn a_recovery_killed_at_every_step_leaves_it_to_the_next() {
    let segment = TempSegment::new("recovery");
    let manager = open(segment.path(), None);
    let id = manager.allocate().unwrap().id;
    let lock = manager.lock(id).unwrap();
    at_each_place(
        |_| healer_of_a_loss(segment.path(), id),
        "try 0",
        |n| {
            assert!(lock.try_acquire().unwrap().owner_died, "call {n}");
            lock.release(false).unwrap();
        },
    );
}

/// Who can heal a lock that the kernel has just lost.
fn healer_of_a_loss(path: &Path, id: u32) -> Peer {
    let opened = format!("open {}", path.display());
    let lock = format!("lock {id}");
    let mut victim = Peer::new();
    for command in [&opened, &lock, "unlist"] {
        assert_eq!(victim.ask(command), "done");
    }
    victim.kill();
    assert_ne!(owner(path, slot_at(id)), 0, "lost by the kernel");
    let mut healer = Peer::new();
    assert_eq!(healer.ask(&opened), "done");
    healer
}

/// If another one could go past it, it could take the lock from a third one when it goes on.
#[test]
fn a_recovery_stopped_in_the_middle_is_waited_for_until_it_ends() {
    let segment = TempSegment::new("recovery-stopped");
    let manager = open(segment.path(), None);
    let id = manager.allocate().unwrap().id;
    let lock = manager.lock(id).unwrap();
    let mut waited = 0;
    for n in 0.. {
        let mut healer = healer_of_a_loss(segment.path(), id);
        let stopped = stopped_after(&mut healer, "try 0", n);
        let tried = lock.try_acquire();
        let is_done = stopped.is_done;
        drop(stopped);
        match tried {
            Ok(acquired) => assert!(acquired.owner_died && !is_done, "call {n}"),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Busy, "call {n}");
                waited += 1;
                assert!(lock.acquire(Some(60_000.0), &mut || true).unwrap().owner_died);
            }
        }
        lock.release(false).unwrap();
        if is_done {
            break;
        }
    }
    assert!(waited > 1, "stopped {waited} times in the middle, or with the lock");
}
