//! What the children of these tests do.

use std::collections::HashMap;
use std::path::Path;

use robust_lock_core::{Acquired, Code, Lock, Manager, Refusal, Won};

use crate::support::{open, serve};

/// The commands of a child: `open PATH`, `lock ID`, `try ID`, `release ID keep|clear`, `turn ID`,
/// `count ID FILE ROUNDS`, `allocate`, `churn ROUNDS`, `hold N`. A lock answers "got TOKEN DIED".
pub fn obey() {
    let mut manager: Option<Manager> = None;
    let mut turns: HashMap<u32, Won> = HashMap::new();
    serve(|words| {
        let id = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let lock = || -> Lock { manager.unwrap().lock(id).unwrap() };
        match words[0] {
            "open" => {
                let opened = open(Path::new(words[1]), None);
                for id in 0..opened.segment().capacity().min(1024) {
                    opened.retrieve(id).unwrap();
                }
                manager = Some(opened);
                "open".to_owned()
            }
            "lock" => told(lock().acquire(None, &mut || true)),
            "try" => told(lock().try_acquire()),
            "release" => format!("{:?}", lock().release(words[2] == "keep")),
            "turn" => {
                turns.insert(id, lock().wait_for_turn(&mut || true, &mut || true).ok().unwrap());
                "my turn".to_owned()
            }
            "hold" => {
                let hold = |id| manager.unwrap().lock(id).unwrap().try_acquire().is_ok();
                format!("{}", (0..id).filter(|&id| hold(id)).count())
            }
            "fork" => forked_copy(&manager.unwrap()),
            "churn" => churn(&manager.unwrap(), id),
            "allocate" => format!("{:?}", manager.unwrap().allocate().map(|handle| handle.id)),
            "count" => {
                let rounds: u32 = words[3].parse().unwrap();
                for _ in 0..rounds {
                    lock().acquire(None, &mut || true).unwrap();
                    let count: u64 = std::fs::read_to_string(words[2]).unwrap().parse().unwrap();
                    std::fs::write(words[2], (count + 1).to_string()).unwrap();
                    lock().release(false).unwrap();
                }
                "counted".to_owned()
            }
            _ => panic!("no such command: {words:?}"),
        }
    });
}

/// What the calls of a copy without exec say. The copy does nothing else.
fn forked_copy(manager: &Manager) -> String {
    let lock = manager.lock(0).unwrap();
    lock.acquire(None, &mut || true).unwrap();
    // SAFETY: the copy makes a few calls that take no lock of the process, and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let refused = lock.try_acquire() == Err(Refusal::Forked)
                && lock.release(false) == Err(Refusal::Forked)
                && lock.acquire(None, &mut || true) == Err(Refusal::Forked)
                && manager.allocate().is_err_and(|error| error.code == Code::Forked);
            // SAFETY: ends the copy without the exit handlers that are its parent's.
            unsafe { nix::libc::_exit(if refused { 42 } else { 1 }) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let end = nix::sys::wait::waitpid(child, None).unwrap();
            lock.release(false).unwrap();
            format!("{end:?}").replace(&child.to_string(), "PID")
        }
    }
}

/// Allocates and frees again and again: "held", if it is given a lock that somebody holds.
fn churn(manager: &Manager, rounds: u32) -> String {
    for _ in 0..rounds {
        if let Ok(handle) = manager.allocate() {
            if manager.lock(handle.id).unwrap().is_held() {
                return "held".to_owned();
            }
            manager.free(handle).unwrap();
        }
    }
    "let go".to_owned()
}

fn told(outcome: Result<Acquired, Refusal>) -> String {
    match outcome {
        Ok(Acquired { owner_died, token }) => format!("got {token} {owner_died}"),
        Err(refusal) => format!("{refusal:?}"),
    }
}
