//! A child that is killed after each system call of what it does.

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Peer;

/// Lets the child do `command` and kills it after its `n`th system call: true. False if it had done it
/// before that; it is killed then, too. It must answer `tid` with the thread that serves.
pub fn killed_after(peer: &mut Peer, command: &str, n: usize) -> bool {
    let tid = Pid::from_raw(peer.ask("tid").parse().unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::seize(tid, options).unwrap();
    ptrace::interrupt(tid).unwrap();
    let stopped = || waitpid(tid, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(stopped(), WaitStatus::PtraceEvent(..)));
    peer.tell(command);
    let mut calls = 0;
    // The first one is the read(2) that it is waiting in.
    while calls <= n {
        ptrace::syscall(tid, None).unwrap();
        match stopped() {
            WaitStatus::PtraceSyscall(_) => {}
            other => panic!("{command}, after {calls} calls: {other:?}"),
        }
        let info = ptrace::syscall_info(tid).unwrap();
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            calls += 1;
        } else if is_an_answer(&info) {
            break;
        }
    }
    peer.child.kill().unwrap();
    // A traced thread is the tracer's to bury, before its process can be.
    while !matches!(stopped(), WaitStatus::Signaled(..) | WaitStatus::Exited(..)) {}
    peer.kill();
    calls > n
}

/// write(2) to standard output.
fn is_an_answer(info: &libc::ptrace_syscall_info) -> bool {
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return false;
    }
    // SAFETY: `op` says that this is the member that is filled in.
    let entry = unsafe { info.u.entry };
    entry.nr == libc::SYS_write as u64 && entry.args[0] == 1
}
