//! Killed so that the kernel loses the locks: the memory is torn down before the dying process walks
//! its list of robust mutexes, as the OOM reaper may do it.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// SIGKILL, then process_mrelease(2); whether the latter was in time.
pub fn kill_and_tear_down(pid: Pid) -> bool {
    // SAFETY: two integers; no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } as i32;
    let _ = kill(pid, Signal::SIGKILL);
    if fd < 0 {
        return false;
    }
    // SAFETY: a descriptor that was just made, and that nobody else knows.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: two integers; the memory that goes is the dying process's.
    let released = unsafe { libc::syscall(libc::SYS_process_mrelease, fd.as_raw_fd(), 0) };
    released == 0
}
