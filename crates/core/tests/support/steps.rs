//! A child that is killed, or stopped, after each system call of what it does.

use std::mem::ManuallyDrop;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Peer;

/// A child whose serving thread stands still. It must answer `tid` with that thread.
pub struct Stopped<'a> {
    peer: &'a mut Peer,
    tid: Pid,
    /// It has done its command; what it has not done is to answer.
    pub is_done: bool,
}

/// Lets the child do `command` and stops it after the `n`th system call of it, or at its end.
pub fn stopped_after<'a>(peer: &'a mut Peer, command: &str, n: usize) -> Stopped<'a> {
    let tid = Pid::from_raw(peer.ask("tid").parse().unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::seize(tid, options).unwrap();
    ptrace::interrupt(tid).unwrap();
    assert!(matches!(next_stop(tid), WaitStatus::PtraceEvent(..)));
    peer.tell(command);
    let mut calls = 0;
    // It stops at the beginning and at the end of each. The first one is the read(2) that it is waiting in.
    let mut begins = false;
    while calls <= n {
        ptrace::syscall(tid, None).unwrap();
        match next_stop(tid) {
            WaitStatus::PtraceSyscall(_) => {}
            other => panic!("{command}, after {calls} calls: {other:?}"),
        }
        begins = !begins;
        if !begins {
            calls += 1;
        } else if is_an_answer(tid) {
            break;
        }
    }
    Stopped { peer, tid, is_done: calls <= n }
}

impl Stopped<'_> {
    /// Lets it do the rest. Returns what it answers.
    pub fn go_on(self) -> String {
        // Nobody traces it any more: there is nothing to bury.
        let mut stopped = ManuallyDrop::new(self);
        ptrace::detach(stopped.tid, None).unwrap();
        stopped.peer.hear()
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.peer.child.kill();
        // A traced thread is the tracer's to bury, before its process can be.
        while !matches!(next_stop(self.tid), WaitStatus::Signaled(..) | WaitStatus::Exited(..)) {}
        self.peer.kill();
    }
}

fn next_stop(tid: Pid) -> WaitStatus {
    waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap()
}

/// Kills it there: true. False if it had done the command before that; it is killed then, too.
pub fn killed_after(peer: &mut Peer, command: &str, n: usize) -> bool {
    !stopped_after(peer, command, n).is_done
}

/// write(2) to standard output. (Not every libc knows PTRACE_GET_SYSCALL_INFO; /proc says the same.)
fn is_an_answer(tid: Pid) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap();
    call.starts_with(&format!("{} 0x1 ", libc::SYS_write))
}
