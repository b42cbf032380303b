//! Deaths that the kernel really loses, each in its own way, and that they are found and healed; and
//! owners that look as if they were gone, and are not.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use robust_lock_core::{Code, Lock, Manager, Refusal, Won};
use support::faults::{
    deny, end_as_the_oom_reaper_does, gettid, owner, stop_while_it_commits, unlist,
};
use support::{ADMIN_AT, GATES_AT, Peer, TURN_AT, TempSegment, patch, serve, slot_at, until};

/// Room for chunk after chunk.
const CAPACITY: u32 = 1 << 19;

/// `open PATH`, `lock ID`, `release ID`, `gate ID`, `raw N`, `grow`; `wait ID`: for 300 ms; `first`: go
/// on as the first thread of a process; `unlist`: the kernel forgets this thread's mutexes; `hide`: its
/// maps from other processes; `sandbox`: do without pidfds; `exec` and `exec-thread ID`: become cat(1), from this thread or from one
/// that has just taken the lock; `leave ID`: this thread ends, and one that has the lock lives on.
#[test]
fn child_entry() {
    let mut manager: Option<Manager> = None;
    let mut turns: HashMap<u32, Won> = HashMap::new();
    serve(|words| {
        let number: u32 = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let lock = || -> Lock {
            let handle = manager.unwrap().retrieve(number).unwrap();
            manager.unwrap().lock(handle.id).unwrap()
        };
        match words[0] {
            "open" => manager = Some(open(Path::new(words[1]))),
            "lock" => drop(lock().acquire(None, &mut || true).unwrap()),
            "release" => lock().release(false).unwrap(),
            "wait" => {
                let waited = lock().acquire(Some(300.0), &mut || true);
                return waited.map_or_else(|refusal| format!("{refusal:?}"), |_| "got".to_owned());
            }
            "gate" => drop(
                turns
                    .insert(number, lock().wait_for_turn(&mut || true, &mut || true).ok().unwrap()),
            ),
            "raw" => (0..number).for_each(|_| lock_a_mutex_of_its_own()),
            "grow" => {
                let manager = manager.unwrap();
                std::thread::spawn(move || {
                    (16..CAPACITY / 256).all(|chunk| manager.retrieve(chunk * 256).is_ok())
                });
            }
            "first" => go_on_as_the_first_thread(),
            "unlist" => unlist(),
            "sandbox" => {
                let mut calls = vec![
                    libc::SYS_pidfd_open,
                    libc::SYS_pidfd_send_signal,
                    libc::SYS_process_mrelease,
                ];
                // Without it musl makes no robust mutexes.
                if !cfg!(target_env = "musl") {
                    calls.push(libc::SYS_get_robust_list);
                }
                deny(&calls, libc::EPERM);
                // SAFETY: two numbers; no memory is involved.
                let refused = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
                assert_eq!(refused, -1);
            }
            "hide" => nix::sys::prctl::set_dumpable(false).unwrap(),
            "exec" => panic!("{}", Command::new("cat").exec()),
            "exec-thread" => {
                let lock = lock();
                let executed = std::thread::spawn(move || {
                    lock.acquire(None, &mut || true).unwrap();
                    panic!("{}", Command::new("cat").exec());
                });
                drop(executed.join());
            }
            "leave" => {
                let lock = lock();
                std::thread::spawn(move || {
                    lock.acquire(None, &mut || true).unwrap();
                    println!("\n> done");
                    // Until the test has ended.
                    let _ = std::io::stdin().read_line(&mut String::new());
                    std::process::exit(0);
                });
                // SAFETY: ends this thread alone; nobody joins it, and nothing of it is used again.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
            }
            _ => panic!("no such command: {words:?}"),
        }
        "done".to_owned()
    });
}

/// Tests run in threads of their own. Before the library is used a copy without exec is as good as any
/// process.
fn go_on_as_the_first_thread() {
    // SAFETY: nothing else runs in this process that could hold a lock that the copy needs.
    if let nix::unistd::ForkResult::Parent { child } = unsafe { nix::unistd::fork() }.unwrap() {
        let _ = nix::sys::wait::waitpid(child, None);
        std::process::exit(0);
    }
    assert_eq!(gettid(), std::process::id());
}

fn open(path: &Path) -> Manager {
    support::open(path, Some(CAPACITY))
}

/// A robust mutex that is nobody else's: an entry more in this thread's list.
fn lock_a_mutex_of_its_own() {
    let attributes: *mut libc::pthread_mutexattr_t = zeroed_for_ever();
    let mutex: *mut libc::pthread_mutex_t = zeroed_for_ever();
    // SAFETY: room for the attributes, zeroed and for ever.
    let mut failed = unsafe { libc::pthread_mutexattr_init(attributes) };
    // SAFETY: initialised attributes.
    failed |= unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
    // SAFETY: room for a mutex, zeroed and for ever, and initialised attributes.
    failed |= unsafe { libc::pthread_mutex_init(mutex, attributes) };
    // SAFETY: an initialised mutex, for ever.
    failed |= unsafe { libc::pthread_mutex_lock(mutex) };
    assert_eq!(failed, 0);
}

fn zeroed_for_ever<T>() -> *mut T {
    // SAFETY: types of the C library that zeroes are good for.
    Box::leak(Box::new(unsafe { core::mem::zeroed() }))
}

struct Place {
    segment: TempSegment,
    manager: Manager,
}

impl Place {
    fn new(name: &str, locks: u32) -> Self {
        let segment = TempSegment::new(name);
        let manager = open(segment.path());
        assert!((0..locks).all(|id| manager.allocate().unwrap().id == id));
        Self { segment, manager }
    }

    fn peer(&self) -> Peer {
        let mut peer = Peer::new();
        all(&mut peer, &[&format!("open {}", self.segment.path().display())]);
        peer
    }

    /// One whose commands run on its first thread.
    fn led_first(&self) -> Peer {
        let mut peer = Peer::new();
        all(&mut peer, &["first", &format!("open {}", self.segment.path().display())]);
        peer
    }

    fn lock(&self, id: u32) -> Lock {
        self.manager.lock(id).unwrap()
    }

    /// The thread that the mutex at this place of a slot names; main stands at 0.
    fn owner(&self, id: u32, mutex: u64) -> u32 {
        owner(self.segment.path(), slot_at(id) + mutex)
    }

    /// One try has the lock, which its last holder died with.
    fn is_healed_by_a_try(&self, id: u32) {
        assert!(self.lock(id).try_acquire().unwrap().owner_died, "lock {id}");
        self.lock(id).release(false).unwrap();
    }
}

fn all(peer: &mut Peer, commands: &[&str]) {
    for command in commands {
        assert_eq!(peer.ask(command), "done", "{command}");
    }
}

/// Main, both gates and admin, lost in one death: a tryLock, a waiter that was there before, new
/// waiters and allocations find and heal them, and nothing of a living process's is touched.
#[test]
fn what_process_mrelease_makes_the_kernel_lose_is_healed() {
    let mut lost = [false; 5];
    // A handful is enough as a rule; an emulated machine has needed more than 40.
    for _ in 0..400 {
        let place = Place::new("mrelease", 7);
        let path = place.segment.path();
        let (mut victim, mut alive) = (place.peer(), place.peer());
        // Gate b serves lock 3.
        patch(path, slot_at(3) + TURN_AT, &1u32.to_ne_bytes());
        all(&mut victim, &["lock 0", "lock 1", "gate 2", "gate 3", "lock 4"]);
        all(&mut alive, &["lock 5", "gate 6"]);
        place.manager.free(place.manager.retrieve(4).unwrap()).unwrap();
        let named = || {
            let slots = [(0, 0), (2, GATES_AT[0]), (3, GATES_AT[1]), (4, 0)];
            let [a, b, c, d] = slots.map(|(id, mutex)| place.owner(id, mutex));
            [a, b, c, d, owner(path, ADMIN_AT)]
        };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let acquired = place.lock(1).acquire(Some(60_000.0), &mut || true).unwrap();
                place.lock(1).release(false).unwrap();
                acquired.owner_died
            });
            until("somebody waits", || place.owner(1, GATES_AT[0]) != 0);
            all(&mut victim, &["grow"]);
            stop_while_it_commits(&victim, path);
            let before = named();
            assert!(before.iter().all(|&tid| tid != 0), "{before:?}");
            if end_as_the_oom_reaper_does(&mut victim).is_none() {
                lost = [true; 5];
            }
            for (i, after) in named().into_iter().enumerate() {
                lost[i] |= after == before[i];
            }
            place.is_healed_by_a_try(0);
            for id in [2, 3] {
                let acquired = place.lock(id).acquire(Some(60_000.0), &mut || true).unwrap();
                assert!(!acquired.owner_died, "nobody was inside");
                place.lock(id).release(false).unwrap();
            }
            assert_eq!(place.manager.allocate().unwrap().id, 4);
            assert_eq!(place.manager.retrieve(CAPACITY - 1).unwrap().id, CAPACITY - 1);
            assert!(waiter.join().unwrap());
            assert_eq!(named(), [0; 5]);
        });
        assert_eq!(place.lock(5).try_acquire(), Err(Refusal::Busy));
        assert_ne!(place.owner(6, GATES_AT[0]), 0);
        all(&mut alive, &["release 5"]);
        if lost == [true; 5] {
            return;
        }
    }
    panic!(
        "not lost in any of 400 deaths (main, gate a, gate b, main of a free id, admin): {lost:?}"
    );
}

#[test]
fn of_a_list_beyond_2048_entries_the_oldest_are_lost_and_healed() {
    let place = Place::new("beyond", 28);
    let mut victim = place.peer();
    (0..20).for_each(|id| all(&mut victim, &[&format!("lock {id}")]));
    all(&mut victim, &["raw 2040"]);
    (20..28).for_each(|id| all(&mut victim, &[&format!("lock {id}")]));
    victim.kill();
    for id in 0..28 {
        assert_eq!(place.owner(id, 0) != 0, id < 20, "lock {id}, lost by the kernel");
        place.is_healed_by_a_try(id);
    }
}

#[test]
fn exec_while_holding_is_an_owners_death() {
    let place = Place::new("exec", 1);
    let mut holder = place.led_first();
    all(&mut holder, &["lock 0"]);
    let pid = place.owner(0, 0);
    holder.tell("exec");
    has_become_cat(pid);
    assert_eq!(place.owner(0, 0), 0, "marked by the kernel");
    place.is_healed_by_a_try(0);
}

/// The thread takes the first one's TID over before the kernel walks its list, in which every word
/// names the TID that it had: nothing is marked.
#[test]
fn exec_by_another_thread_is_lost_by_the_kernel_and_healed() {
    let place = Place::new("exec-thread", 2);
    let mut holder = place.led_first();
    all(&mut holder, &["lock 0"]);
    let pid = place.owner(0, 0);
    holder.tell("exec-thread 1");
    has_become_cat(pid);
    assert_eq!(place.owner(0, 0), 0, "the first thread's is marked by the kernel");
    let tid = place.owner(1, 0);
    assert!(tid != 0 && tid != pid, "lost by the kernel: {tid}");
    place.is_healed_by_a_try(0);
    place.is_healed_by_a_try(1);
}

fn has_become_cat(pid: u32) {
    let comm = format!("/proc/{pid}/comm");
    until("it has become another program", || std::fs::read_to_string(&comm).unwrap() == "cat\n");
}

/// The first thread has ended and the process lives: a zombie, whose maps read empty.
#[test]
fn a_first_thread_that_ends_before_the_others_is_gone_and_they_are_not() {
    for known in [true, false] {
        let place = Place::new("leader", 2);
        let mut holder = place.led_first();
        all(&mut holder, &["lock 0"]);
        let pid = place.owner(0, 0);
        if !known {
            all(&mut holder, &["unlist"]);
        }
        all(&mut holder, &["leave 1"]);
        let stat = format!("/proc/{pid}/stat");
        until("the first thread is a zombie", || {
            std::fs::read_to_string(&stat).unwrap().contains(") Z ")
        });
        assert_eq!(place.owner(0, 0), if known { 0 } else { pid });
        place.is_healed_by_a_try(0);
        assert_eq!(place.lock(1).acquire(Some(500.0), &mut || true), Err(Refusal::TimedOut));
        assert_ne!(place.owner(1, 0), 0);
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        until("its other thread is gone", || place.owner(1, 0) == 0);
        place.is_healed_by_a_try(1);
    }
}

/// Whose maps cannot be read may be alive, and here it is: an ordinary user's process that is not
/// dumpable (as a node binary with file capabilities is not).
#[test]
fn a_holder_that_cannot_be_looked_at_is_left_alone() {
    let program = TempSegment::new("program");
    let segment = TempSegment::new("hidden");
    let ordinary = || {
        if !nix::unistd::geteuid().is_root() {
            return Command::new(std::env::current_exe().unwrap());
        }
        // The build may lie where an ordinary user cannot go.
        let mut command = Command::new(program.path());
        command.uid(65_534).gid(65_534);
        command
    };
    std::fs::copy(std::env::current_exe().unwrap(), program.path()).unwrap();
    if let Err(error) = ordinary().arg("--list").output() {
        println!("not run: a program in /dev/shm: {error}");
        return;
    }
    let [mut holder, mut waiter] = [(); 2].map(|()| {
        let mut peer = Peer::through(ordinary());
        all(&mut peer, &[&format!("open {}", segment.path().display())]);
        peer
    });
    all(&mut holder, &["lock 0", "hide"]);
    assert_eq!(waiter.ask("wait 0"), "TimedOut");
    all(&mut holder, &["release 0"]);
    assert_eq!(waiter.ask("wait 0"), "got");
}

/// A seccomp filter without pidfd_open and process_mrelease: nothing here needs them.
#[test]
fn a_sandbox_without_pidfds_changes_nothing() {
    let place = Place::new("sandbox", 3);
    let mut inside = Peer::new();
    all(&mut inside, &["sandbox", &format!("open {}", place.segment.path().display())]);
    let mut holder = place.peer();
    // It waits for one that dies, and heals what the kernel has lost; and the other way round.
    all(&mut holder, &["lock 0"]);
    inside.tell("lock 0");
    until("it waits", || place.owner(0, GATES_AT[0]) != 0);
    holder.kill();
    assert_eq!(inside.hear(), "done");
    let mut lost = place.peer();
    all(&mut lost, &["lock 1", "unlist"]);
    lost.kill();
    assert_ne!(place.owner(1, 0), 0, "lost by the kernel");
    all(&mut inside, &["lock 1", "lock 2", "release 2"]);
    inside.kill();
    place.is_healed_by_a_try(0);
    place.is_healed_by_a_try(1);
}

#[test]
fn a_committer_stopped_in_the_middle_stalls_new_chunks_and_no_more() {
    let place = Place::new("stalled", 1);
    let mut stopped = place.peer();
    all(&mut stopped, &["grow"]);
    stop_while_it_commits(&stopped, place.segment.path());
    let committer = owner(place.segment.path(), ADMIN_AT);
    let refusal = place.manager.retrieve(CAPACITY - 1).unwrap_err();
    assert_eq!(refusal.code, Code::Stalled);
    assert!(refusal.message.contains(&committer.to_string()), "{refusal}");
    // What is there works meanwhile.
    place.lock(0).acquire(None, &mut || true).unwrap();
    place.lock(0).release(false).unwrap();
    place.manager.free(place.manager.allocate().unwrap()).unwrap();
    stopped.signal(Signal::SIGCONT);
    assert_eq!(place.manager.retrieve(CAPACITY - 1).unwrap().id, CAPACITY - 1);
}
