//! Real faults: deaths that the kernel loses, and namespaces to have them in.

use std::path::Path;
use std::process::Command;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Peer, read, until, word_offset};

const TID_MASK: u32 = 0x3fff_ffff;

/// The thread that the mutex at this place of the file names.
pub fn owner(path: &Path, mutex_at: u64) -> u32 {
    u32::from_ne_bytes(read(path, mutex_at + word_offset(path))) & TID_MASK
}

/// The calling thread's id.
pub fn gettid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// set_robust_list(2): from now on the kernel knows of no mutex of this thread, and its death marks
/// none. The C library does not notice.
pub fn unlist() {
    #[repr(C)]
    struct Head {
        next: *const Head,
        offset: libc::c_long,
        pending: *const Head,
    }
    let head = Box::leak(Box::new(Head {
        next: core::ptr::null(),
        offset: 0,
        pending: core::ptr::null(),
    }));
    head.next = &raw const *head;
    // SAFETY: an empty list, whose head lives for ever.
    let set =
        unsafe { libc::syscall(libc::SYS_set_robust_list, &raw const *head, size_of::<Head>()) };
    assert_eq!(set, 0);
}

/// seccomp(2): these calls fail from now on in this thread, and in those that it starts.
pub fn deny(calls: &[libc::c_long], errno: i32) {
    let op = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    // The number of the call is the first word of seccomp_data; the last instruction is the refusal.
    let mut filter = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (i, &call) in calls.iter().enumerate() {
        let ahead = (calls.len() - i) as u8;
        filter.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, ahead, call as u32));
    }
    filter.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no memory is involved; without it an ordinary user may not install a filter.
    let denied = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(denied, 0);
    // SAFETY: a whole program, which the kernel copies.
    let installed =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(installed, 0);
}

/// Ends a process and takes its memory at once, as the OOM reaper does: kill(2), process_mrelease(2).
/// Whether the kernel lost anything by that is a matter of who is faster. None: this kernel cannot.
pub fn end_as_the_oom_reaper_does(peer: &mut Peer) -> Option<()> {
    let pid = peer.child.id() as libc::pid_t;
    // SAFETY: two numbers; no memory is involved.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // SAFETY: two numbers; it is the memory of a process that has been killed.
    let released = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd, 0) };
    let error = std::io::Error::last_os_error();
    // SAFETY: the descriptor that was opened above, or -1.
    unsafe { libc::close(pidfd) };
    peer.child.wait().unwrap();
    // ESRCH: it has let go of its memory by itself.
    if released == 0 || error.raw_os_error() == Some(libc::ESRCH) {
        return Some(());
    }
    println!("not run: process_mrelease: {error}");
    None
}

/// SIGSTOP, and every thread of it has stopped.
pub fn stop(peer: &Peer) {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    peer.signal(Signal::SIGSTOP);
    let pid = Pid::from_raw(peer.child.id() as i32);
    assert!(matches!(waitpid(pid, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))));
}

/// Stops a process that adds chunk after chunk in the middle of that: while it has the admin mutex.
pub fn stop_while_it_commits(peer: &Peer, path: &Path) {
    until("it is stopped with the admin mutex in its hands", || {
        stop(peer);
        let inside = owner(path, super::ADMIN_AT) != 0;
        if !inside {
            peer.signal(Signal::SIGCONT);
        }
        inside
    });
}

/// unshare(1) with these flags; an ordinary user needs a user namespace for it. None: not allowed here.
pub fn unshare(flags: &[&str]) -> Option<Command> {
    let command = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(flags);
        command
    };
    match command().arg("true").output() {
        Ok(output) if output.status.success() => Some(command()),
        refused => {
            println!("not run: unshare {flags:?}: {refused:?}");
            None
        }
    }
}

/// A PID namespace of its own, with its /proc; killed with whoever started it.
pub const OTHER_PIDS: &[&str] = &["--pid", "--fork", "--kill-child", "--mount-proc"];

/// Runs a test of this very program in namespaces of its own, with an argument; false if it cannot be.
pub fn run_inside(flags: &[&str], test: &str, argument: &str) -> bool {
    let Some(mut command) = unshare(flags) else { return false };
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("ROBUST_LOCK_TEST_INSIDE", argument)
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    true
}

/// The argument, in a test that was started by [`run_inside`].
pub fn inside() -> Option<String> {
    std::env::var("ROBUST_LOCK_TEST_INSIDE").ok()
}
