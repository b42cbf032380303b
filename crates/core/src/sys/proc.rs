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
    let own = fs::read_link("/proc/self")?;
    if own.to_str() != Some(std::process::id().to_string().as_str()) {
        return Ok(None);
    }
    let pid_ns = fs::metadata("/proc/self/ns/pid")?.ino();
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(parse_uuid(text.trim()).map(|boot_id| World { pid_ns, boot_id }))
}

/// The time namespace: recorded for diagnosis, never compared. 0 on a kernel without them.
pub fn time_ns() -> u64 {
    fs::metadata("/proc/self/ns/time").map_or(0, |meta| meta.ino())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let value = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32 && value != 0).then(|| value.to_be_bytes())
}

/// When this process started, in clock ticks since boot: /proc/self/stat, field 22. 0 if unreadable.
pub fn own_start() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may contain anything but ends with the last parenthesis.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
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
/// part of an answer or an empty one proves nothing, with one exception: a zombie has let go of its
/// memory, and of its mutexes before that.
pub fn does_not_map(tid: u32, dev: u64, ino: u64) -> bool {
    let mut maps = String::new();
    let read =
        File::open(format!("/proc/{tid}/maps")).and_then(|mut f| f.read_to_string(&mut maps));
    match read {
        Ok(0) => is_zombie(tid),
        Ok(_) => {
            let device = format!("{:02x}:{:02x}", libc::major(dev as _), libc::minor(dev as _));
            let inode = ino.to_string();
            // address perms offset device inode path
            !maps.lines().any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(3);
                fields.next() == Some(&device) && fields.next() == Some(&inode)
            })
        }
        Err(_) => false,
    }
}

fn is_zombie(tid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    matches!(state, Some("Z" | "X"))
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
        assert_eq!(parse_uuid("no-uuid"), None);
    }
}
