//! What /proc says: which namespaces and which boot we live in, and who is alive.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

/// Where the TIDs in a segment mean something: one PID namespace of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    pub pid_ns: u64,
    pub boot_id: [u8; 16],
}

/// This process's own. `Ok(None)` if /proc belongs to another PID namespace or says too little.
pub fn world() -> io::Result<Option<World>> {
    if !is_our_proc()? {
        return Ok(None);
    }
    let pid_ns = fs::metadata("/proc/self/ns/pid")?.ino();
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(parse_uuid(text.trim()).map(|boot_id| World { pid_ns, boot_id }))
}

/// Whether the numbers in /proc are those of our own PID namespace.
fn is_our_proc() -> io::Result<bool> {
    let own = fs::read_link("/proc/self")?;
    Ok(own.to_str() == Some(std::process::id().to_string().as_str()))
}

/// The time namespace: recorded for diagnosis, never compared. 0 on a kernel without them.
pub fn time_ns() -> u64 {
    time_ns_of("self").unwrap_or(0)
}

fn time_ns_of(pid: &str) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/time")).ok()?.ino())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let value = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32 && value != 0).then(|| value.to_be_bytes())
}

/// When this process started, in clock ticks since boot. 0 if that cannot be read.
pub fn own_start() -> u64 {
    start("self").unwrap_or(0)
}

/// /proc/PID/stat, field 22.
fn start(pid: &str) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    after_name(&stat).split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether thread `tid` is one of process `pid`, which started at `started`, as it read itself. None:
/// nothing is known. (To another time namespace /proc shows other start times.)
pub fn belongs_to(tid: u32, pid: u32, started: u64) -> Option<bool> {
    if !is_our_proc().ok()? {
        return None;
    }
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let its_process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim();
    if its_process != pid.to_string() {
        return Some(false);
    }
    let same_clock = time_ns_of(its_process) == time_ns_of("self");
    (started != 0 && same_clock).then_some(start(its_process)? == started)
}

/// What follows the second field of a stat file: the name, which may contain anything but ends with the
/// last parenthesis.
fn after_name(stat: &str) -> &str {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest)
}

/// pthread_sigmask(3): signals are for the program's own threads, not for a helper's small stack.
pub fn block_signals() {
    // It fails only for a bad first argument, and a failure would leave things as usual.
    let _ = nix::sys::signal::SigSet::all().thread_block();
}

/// kill(2) with signal 0: whether a thread of this id is known to be gone. (The kernel finds threads
/// by it too, not only processes.)
pub fn no_such_thread(tid: u32) -> bool {
    // SAFETY: signal 0 is delivered to nobody; the call touches no memory.
    let result = unsafe { libc::kill(tid as libc::pid_t, 0) };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// Whether thread `tid` is proven not to have the file of that device and inode mapped. An error, a
/// part of an answer or an empty one proves nothing, with one exception: a thread without memory.
///
/// A list that is cut short because the thread ends meanwhile is whole enough: the kernel walks a
/// thread's mutexes before it takes its memory away.
pub fn does_not_map(tid: u32, dev: u64, ino: u64) -> bool {
    let mut maps = Vec::new();
    let read = File::open(format!("/proc/{tid}/maps")).and_then(|mut f| f.read_to_end(&mut maps));
    let absent = match read {
        Ok(0) => has_no_memory(tid),
        Ok(_) => !maps.split(|&byte| byte == b'\n').any(|line| shows(line, dev, ino)),
        // What some kernels say instead of nothing.
        Err(error) => error.raw_os_error() == Some(libc::ESRCH) && has_no_memory(tid),
    };
    // Mounts change: another namespace's /proc would have shown a stranger of the same number.
    absent && is_our_proc().unwrap_or(false)
}

/// Whether a line of maps names the file: address, permissions, offset, device, inode, and then a path
/// of any bytes.
fn shows(line: &[u8], dev: u64, ino: u64) -> bool {
    let device = format!("{:02x}:{:02x}", libc::major(dev as _), libc::minor(dev as _));
    let inode = ino.to_string();
    let mut fields = line.split(|&byte| byte == b' ').skip(3);
    fields.next() == Some(device.as_bytes()) && fields.next() == Some(inode.as_bytes())
}

/// Whether it is a zombie, which has let go of its memory, and of its mutexes before that; or a thread
/// of the kernel's, which never had any. (The first of a process's threads is a zombie, too, if it ends
/// before the others. It is gone then, whoever lives on.)
fn has_no_memory(tid: u32) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = fs::read(format!("/proc/{tid}/stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = after_name(&stat).split_ascii_whitespace();
    let is_zombie = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|field| field.parse::<u32>().ok());
    is_zombie || flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mutex::gettid;

    #[test]
    fn the_living_are_not_declared_gone() {
        assert!(!no_such_thread(gettid()));
        assert!(!no_such_thread(1));
        let library = fs::metadata("/proc/self/exe").unwrap();
        assert!(!does_not_map(gettid(), library.dev(), library.ino()));
        assert!(does_not_map(gettid(), library.dev(), u64::MAX));
        // Nobody's TID: there is no answer, so there is no proof from the maps.
        assert!(!does_not_map(0x3fff_fff0, 1, 1));
        assert!(no_such_thread(0x3fff_fff0));
    }

    #[test]
    fn a_thread_of_the_kernel_maps_nothing() {
        let stat = fs::read_to_string("/proc/2/stat").unwrap_or_default();
        if stat.starts_with("2 (kthreadd) ") {
            assert!(does_not_map(2, 1, 1));
        } else {
            println!("not run: no thread of the kernel's is to be seen in this PID namespace");
        }
    }

    #[test]
    fn lines_of_maps_are_read_byte_by_byte() {
        let line =
            b"7f00-7f01 rw-s 00000000 00:1a 4711                  /dev/shm/caf\xe9 (deleted)";
        let dev = libc::makedev(0, 0x1a);
        assert!(shows(line, dev, 4711));
        assert!(!shows(line, dev, 471));
        assert!(!shows(line, libc::makedev(1, 0x1a), 4711));
        assert!(!shows(b"", dev, 4711));
    }

    #[test]
    fn a_dead_thread_is_gone() {
        let tid = std::thread::spawn(gettid).join().unwrap();
        // The TID may outlive the join by an instant.
        while !no_such_thread(tid) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn our_world_can_be_read() {
        let world = world().unwrap().unwrap();
        assert_ne!(world.pid_ns, 0);
        assert_ne!(own_start(), 0);
        let me = std::process::id();
        assert_eq!(belongs_to(gettid(), me, own_start()), Some(true));
        assert_eq!(belongs_to(gettid(), me, own_start() + 1), Some(false));
        assert_eq!(belongs_to(gettid(), me + 1, own_start()), Some(false));
        assert_eq!(belongs_to(gettid(), me, 0), None);
        assert_eq!(belongs_to(0x3fff_fff0, me, own_start()), None);
        assert_eq!(parse_uuid("no-uuid"), None);
    }
}
