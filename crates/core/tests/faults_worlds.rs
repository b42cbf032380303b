//! TIDs that mean somebody else: given again after a loss, the same in two containers, or read in the
//! /proc of another PID namespace. Most of it happens in namespaces of its own.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command};
use std::ptr::null_mut;

use robust_lock_core::{Code, Lock, Manager, Refusal};
use support::faults::{OTHER_PIDS, gettid, inside, owner, run_inside, unlist, unshare};
use support::{GATES_AT, Peer, TempSegment, open, options, serve, slot_at, until};

/// `tid`; `open PATH`: "opened" or the code; `lock ID`: "got DIED"; `gate ID`; `unlist`; `fork`: go on
/// as a copy; `map-latin1`; `crew`: starts three others, which open at once with `open-all PATH`; `end`.
#[test]
fn child_entry() {
    let mut manager: Option<Manager> = None;
    let mut turns = vec![];
    let mut crew: Vec<Peer> = vec![];
    serve(|words| {
        let lock = || -> Lock { manager.unwrap().lock(words[1].parse().unwrap()).unwrap() };
        match words[0] {
            "tid" => return gettid().to_string(),
            "open" => match Manager::open(&options(Path::new(words[1]))) {
                Ok((opened, _)) => {
                    (0..4).for_each(|id| assert_eq!(opened.retrieve(id).unwrap().id, id));
                    manager = Some(opened);
                }
                Err(error) => return error.code.as_str().to_owned(),
            },
            "lock" => {
                let acquired = lock().acquire(Some(60_000.0), &mut || true).unwrap();
                return format!("got {}", acquired.owner_died);
            }
            "gate" => turns.push(lock().wait_for_turn(&mut || true, &mut || true).ok().unwrap()),
            "crew" => crew = (0..3).map(|_| Peer::new()).collect(),
            "open-all" => {
                let opened = format!("open {}", words[1]);
                crew.iter_mut().for_each(|peer| peer.tell(&opened));
                let answers: Vec<String> = crew.iter_mut().map(Peer::hear).collect();
                return answers.join(" ");
            }
            "unlist" => unlist(),
            "map-latin1" => map_a_file_whose_name_is_no_utf8(),
            "fork" => go_on_as_a_copy(),
            "end" => std::process::exit(0),
            _ => panic!("no such command: {words:?}"),
        }
        "done".to_owned()
    });
}

/// Before the library is used a copy without exec is as good as any process. It has the next TID.
fn go_on_as_a_copy() {
    // SAFETY: nothing else runs in this process that could hold a lock that the copy needs.
    if let nix::unistd::ForkResult::Parent { child } = unsafe { nix::unistd::fork() }.unwrap() {
        let _ = nix::sys::wait::waitpid(child, None);
        std::process::exit(0);
    }
}

/// Such a name stands in the memory map as it is.
fn map_a_file_whose_name_is_no_utf8() {
    let name = format!("/dev/shm/robust-lock-test-{}-caf", std::process::id());
    let path = OsStr::from_bytes(&[name.as_bytes(), b"\xe9"].concat()).to_owned();
    std::fs::write(&path, "something").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let _ = std::fs::remove_file(&path);
    let (access, kind) = (nix::libc::PROT_READ, nix::libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { nix::libc::mmap(null_mut(), 9, access, kind, file.as_raw_fd(), 0) };
    assert_ne!(at, nix::libc::MAP_FAILED);
}

fn all(peer: &mut Peer, commands: &[&str]) {
    for command in commands {
        assert_eq!(peer.ask(command), "done", "{command}");
    }
}

/// The next thread that is started in this PID namespace has this TID, if it is free. False: there is
/// no such file, or it is not ours to write.
fn next_is(tid: u32) -> bool {
    let wrote = std::fs::write("/proc/sys/kernel/ns_last_pid", (tid - 1).to_string());
    wrote.inspect_err(|error| println!("not run: /proc/sys/kernel/ns_last_pid: {error}")).is_ok()
}

/// Lock 0, of a holder that is gone without the kernel's mark: the TID that it names.
fn lose(path: &Path) -> u32 {
    let mut victim = Peer::new();
    all(&mut victim, &[&format!("open {}", path.display())]);
    assert!(victim.ask("lock 0").starts_with("got "));
    all(&mut victim, &["unlist"]);
    victim.kill();
    let tid = owner(path, slot_at(0));
    assert_ne!(tid, 0, "lost by the kernel");
    tid
}

/// Starts it until it has the TID.
fn reborn(tid: u32, start: impl Fn() -> Peer) -> Peer {
    for _ in 0..20 {
        assert!(next_is(tid));
        let peer = start();
        if peer.child.id() == tid {
            return peer;
        }
    }
    panic!("TID {tid} is not given again");
}

#[test]
fn a_tid_given_again_is_no_owner_unless_it_has_the_segment() {
    let segment = TempSegment::new("given-again");
    run_inside(OTHER_PIDS, "inside_tids_are_given_again", &segment.path().display().to_string());
}

#[test]
fn inside_tids_are_given_again() {
    let Some(path) = inside() else { return };
    let path = Path::new(&path);
    if !next_is(1_000) {
        return;
    }
    let manager = open(path, None);
    let lock = manager.lock(manager.allocate().unwrap().id).unwrap();
    let heals = |how: &str| {
        match how {
            // Its look at a memory map may have to wait for 50 ms.
            "tryLock" => until("tryLock heals", || {
                lock.try_acquire().inspect(|acquired| assert!(acquired.owner_died)).is_ok()
            }),
            _ => assert!(lock.acquire(Some(60_000.0), &mut || true).unwrap().owner_died),
        }
        lock.release(false).unwrap();
    };
    // A holder is not suspected, however long it holds.
    let mut holder = Peer::new();
    all(&mut holder, &[&format!("open {}", path.display())]);
    assert_eq!(holder.ask("lock 0"), "got false");
    assert_eq!(lock.acquire(Some(400.0), &mut || true), Err(Refusal::TimedOut));
    assert_eq!(manager.segment().suspicion(), None);
    holder.kill();
    heals("lockSync");
    for how in ["tryLock", "lockSync"] {
        // By a stranger.
        let tid = lose(path);
        let mut stranger = reborn(tid, Peer::new);
        all(&mut stranger, &["map-latin1"]);
        heals(how);
        stranger.kill();
        // By a stranger that ends, and that nobody buries.
        let tid = lose(path);
        let mut zombie = reborn(tid, Peer::new);
        zombie.child.kill().unwrap();
        heals(how);
        zombie.kill();
        // By one that has the segment: there is no proof before it ends.
        let tid = lose(path);
        let mut tenant = reborn(tid, Peer::new);
        all(&mut tenant, &[&format!("open {}", path.display())]);
        assert_eq!(lock.try_acquire(), Err(Refusal::Busy));
        assert_eq!(lock.acquire(Some(700.0), &mut || true), Err(Refusal::TimedOut));
        assert_eq!(owner(path, slot_at(0)), tid);
        assert_eq!(manager.segment().suspicion(), Some((0, tid)), "and so it is told");
        tenant.kill();
        heals(how);
    }
}

/// A process may come to see the /proc of another PID namespace after it has opened the segment: its
/// numbers are other threads'.
#[test]
fn a_foreign_proc_proves_nothing() {
    let segment = TempSegment::new("foreign-proc");
    // A process outside that has not got the segment, and whose number a holder inside will have.
    let mut stranger = Peer::new();
    let argument = format!("{} {}", segment.path().display(), stranger.child.id());
    run_inside(OTHER_PIDS, "inside_proc_is_another_one", &argument);
    stranger.kill();
}

#[test]
fn inside_proc_is_another_one() {
    let Some(argument) = inside() else { return };
    let (path, tid) = argument.split_once(' ').unwrap();
    let (path, tid) = (Path::new(path), tid.parse().unwrap());
    if !next_is(1_000) {
        return;
    }
    let manager = open(path, None);
    let lock = manager.lock(manager.allocate().unwrap().id).unwrap();
    let mut holder = Peer::new();
    holder.ask("tid");
    next_is(tid);
    all(&mut holder, &["fork"]);
    assert_eq!(holder.ask("tid"), tid.to_string());
    all(&mut holder, &[&format!("open {}", path.display())]);
    assert_eq!(holder.ask("lock 0"), "got false");
    // What was mounted before this namespace's own.
    assert!(Command::new("umount").args(["-l", "/proc"]).status().unwrap().success());
    match std::fs::read_to_string(format!("/proc/{tid}/maps")) {
        Ok(outside) => assert!(!outside.is_empty() && !outside.contains("foreign-proc")),
        Err(error) => println!("not run to the point: /proc/{tid}/maps is not to be read: {error}"),
    }
    assert_eq!(lock.try_acquire(), Err(Refusal::Busy));
    assert_eq!(lock.acquire(Some(500.0), &mut || true), Err(Refusal::TimedOut));
    assert_eq!(owner(path, slot_at(0)), tid);
}

fn container() -> Option<Peer> {
    let mut command = unshare(OTHER_PIDS)?;
    command.arg(std::env::current_exe().unwrap());
    Some(Peer::through(command))
}

/// Two containers, in which the same things have the same TIDs, one after the other.
#[test]
fn what_a_container_left_is_not_its_successors_although_their_tids_collide() {
    let segment = TempSegment::new("containers");
    let opened = format!("open {}", segment.path().display());
    let Some(mut first) = container() else { return };
    all(&mut first, &[&opened]);
    assert_eq!(first.ask("lock 0"), "got false");
    all(&mut first, &["gate 1", "unlist"]);
    let tid = owner(segment.path(), slot_at(0));
    // While it is there nobody else gets in.
    let mut second = container().unwrap();
    assert_eq!(second.ask("tid"), tid.to_string(), "they collide");
    for peer in [&mut second, &mut Peer::new()] {
        assert_eq!(peer.ask(&opened), Code::PidNamespace.as_str());
    }
    first.tell("end");
    assert!(first.child.wait().unwrap().success());
    assert_eq!(owner(segment.path(), slot_at(0)), tid, "lost by the kernel");
    assert_eq!(owner(segment.path(), slot_at(1) + GATES_AT[0]), tid);
    all(&mut second, &[&opened]);
    assert_eq!(second.ask("lock 0"), "got true");
    assert_eq!(second.ask("lock 1"), "got false");
    second.tell("end");
    second.child.wait().unwrap();
    // And back to this namespace.
    let manager = open(segment.path(), None);
    assert!(manager.lock(0).unwrap().acquire(Some(60_000.0), &mut || true).unwrap().owner_died);
    manager.lock(0).unwrap().release(false).unwrap();
}

/// Nine openers of three PID namespaces at once: all of one get in, and none of the others while they
/// are there.
#[test]
fn of_openers_of_three_namespaces_at_once_one_namespace_wins() {
    let segment = TempSegment::new("three-worlds");
    let opened = format!("open {}", segment.path().display());
    if container().is_none() {
        return;
    }
    let mut winners = [0; 3];
    for round in 0..8 {
        // Left by this namespace, or by a container that is gone.
        if round % 2 == 0 {
            let mut gone = container().unwrap();
            all(&mut gone, &[&opened]);
            end(&mut gone);
        }
        let mut worlds = [container().unwrap(), container().unwrap(), Peer::new()];
        worlds.iter_mut().for_each(|world| all(world, &["crew"]));
        // Another one is the first to be told each time.
        for world in 0..3 {
            worlds[(world + round) % 3].tell(&format!("open-all {}", segment.path().display()));
        }
        let answers = worlds.each_mut().map(|world| world.hear());
        let refused = [Code::PidNamespace.as_str(); 3].join(" ");
        let inside: Vec<usize> =
            (0..3).filter(|&world| answers[world] == "done done done").collect();
        assert_eq!(inside.len(), 1, "round {round}: {answers:?}");
        let others = answers.iter().filter(|&answer| *answer == refused).count();
        assert_eq!(others, 2, "round {round}: {answers:?}");
        winners[inside[0]] += 1;
        // A winner dies in its section, and the next world is told.
        let winner = &mut worlds[inside[0]];
        all(winner, &[&opened]);
        assert_eq!(winner.ask("lock 2"), format!("got {}", round > 0));
        worlds.iter_mut().for_each(end);
    }
    println!("won by each of the three namespaces: {winners:?}");
}

fn end(peer: &mut Peer) {
    peer.tell("end");
    let _ = Child::wait(&mut peer.child);
}
