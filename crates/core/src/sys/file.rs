//! Files of a tmpfs: made without a name, reserved, locked, mapped, and linked when whole.

use core::ptr::NonNull;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{self, AT_FDCWD, AtFlags, FallocateFlags};
use nix::sys::{mman, resource, statfs};

/// open(2) of an existing file, neither through a symlink nor waiting for a FIFO's other end. Never
/// with O_CREAT: fs.protected_regular would refuse it in a sticky folder.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// open(2) with O_TMPFILE: a file without a name, gone with its last descriptor.
pub fn open_unnamed(folder: &Path, mode: u32) -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).mode(mode).custom_flags(flags).open(folder)
}

/// fstatfs(2): whether the file lies on a tmpfs.
pub fn on_tmpfs(file: &File) -> io::Result<bool> {
    Ok(statfs::fstatfs(file)?.filesystem_type() == statfs::TMPFS_MAGIC)
}

/// linkat(2): gives the unnamed file its name; EEXIST if somebody was faster.
pub fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// fallocate(2): the pages are there afterwards, or an error says why not; a touch of the mapping
/// cannot raise SIGBUS any more. Begun anew after a signal, which makes the kernel undo its work.
pub fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    loop {
        let flags = FallocateFlags::empty();
        match fcntl::fallocate(file.as_fd(), flags, offset as libc::off_t, len as libc::off_t) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// lseek(2) with SEEK_HOLE: whether every page of that part has been written to. On a tmpfs one that is
/// merely reserved counts as a hole.
pub fn is_written(file: &File, offset: u64, len: u64) -> bool {
    let hole = nix::unistd::lseek(file, offset as libc::off_t, nix::unistd::Whence::SeekHole);
    hole.is_ok_and(|hole| hole as u64 >= offset + len)
}

/// getrlimit(2): the largest file this process may make. Looked at before ftruncate(2), which would
/// raise SIGXFSZ.
pub fn size_limit() -> u64 {
    resource::getrlimit(resource::Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft as _)
}

/// flock(2), without waiting: false if another open file has it in a way that excludes ours. A held
/// one must never be converted: a conversion that fails drops it.
pub fn flock(file: &File, exclusive: bool) -> io::Result<bool> {
    let operation = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
    // SAFETY: an open descriptor; the call touches no memory of ours.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

/// mmap(2) of the first `len` bytes, shared and for good: there is no unmapping. (A mutex that is
/// held in an unmapped segment would take the thread's older locks with it.)
pub fn map(file: &File, len: usize) -> io::Result<NonNull<u8>> {
    let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
    let access = mman::ProtFlags::PROT_READ | mman::ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice: no memory in use is replaced.
    let at = unsafe { mman::mmap(None, len, access, mman::MapFlags::MAP_SHARED, file, 0) }?;
    Ok(at.cast())
}

/// munmap(2).
///
/// # Safety
/// `at` and `len` are those of one [`map`], nothing refers to it any more, and no mutex in it is held
/// or waited for.
pub unsafe fn unmap(at: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise. A failure would leave the mapping, which harms nobody.
    let _ = unsafe { mman::munmap(at.cast(), len) };
}

/// A write lock on one byte of a file, fcntl(2) F_OFD_SETLK; it goes with the last copy of the
/// descriptor. None if somebody else has it, or if the kernel says no.
pub fn try_byte_lock(file: &File, offset: u64) -> Option<ByteLock<'_>> {
    set_byte_lock(file, offset, libc::F_WRLCK).then_some(ByteLock { file, offset })
}

pub struct ByteLock<'a> {
    file: &'a File,
    offset: u64,
}

impl Drop for ByteLock<'_> {
    fn drop(&mut self) {
        set_byte_lock(self.file, self.offset, libc::F_UNLCK);
    }
}

// The range as the kernel wants it: in 64 bits, everywhere. glibc's fcntl translates one of 32 since 2.28; a
// program that is linked against an older one hands the kernel nonsense. So the kernel is asked itself.
#[cfg(all(target_env = "gnu", target_pointer_width = "32"))]
use libc::{SYS_fcntl64 as SYS_FCNTL, flock64 as Range};

#[cfg(not(all(target_env = "gnu", target_pointer_width = "32")))]
use libc::{SYS_fcntl as SYS_FCNTL, flock as Range};

fn set_byte_lock(file: &File, offset: u64, kind: libc::c_int) -> bool {
    let range = Range {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset as _,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: fcntl(2) with F_OFD_SETLK reads one such range, and keeps nothing of it.
    unsafe { libc::syscall(SYS_FCNTL, file.as_raw_fd(), libc::F_OFD_SETLK, &range) == 0 }
}

/// geteuid(2).
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// mkdir(2) for the owner alone, if it is not there yet.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    match nix::unistd::mkdir(path, nix::sys::stat::Mode::S_IRWXU) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_file_is_linked_once() {
        let folder = Path::new("/dev/shm");
        let path = folder.join(format!("robust-lock-test-link-{}", std::process::id()));
        let (first, second) =
            (open_unnamed(folder, 0o600).unwrap(), open_unnamed(folder, 0o600).unwrap());
        assert!(on_tmpfs(&first).unwrap());
        link(&first, &path).unwrap();
        let refused = link(&second, &path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn locks_of_two_descriptors_exclude_each_other() {
        let file = open_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        let again = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .unwrap();
        assert!(flock(&file, false).unwrap());
        assert!(flock(&again, false).unwrap());
        assert!(!flock(&open_again(&file), true).unwrap());
        let held = try_byte_lock(&file, 3);
        assert!(held.is_some());
        assert!(try_byte_lock(&again, 3).is_none());
        assert!(try_byte_lock(&again, 4).is_some());
        drop(held);
        assert!(try_byte_lock(&again, 3).is_some());
    }

    fn open_again(file: &File) -> File {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }
}
