//! A process that goes on one instruction at a time, and is killed between two.
//!
//! A victim is forked from the test program, and from nothing else: the library refuses a fork of a
//! process that has it loaded, so a test program with victims must never open a segment itself. Its
//! body runs freely up to its first mark, and from there on step by step under ptrace(2).

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use crate::jump::Place;
use crate::support::watchdog;

/// More steps than any operation has: beyond, the processor cannot be single-stepped through its
/// atomic instructions (load-linked and store-conditional start over and over).
const TOO_MANY: u64 = 20_000_000;

pub struct Victim {
    pid: Pid,
    gone: bool,
    /// What its body says at its end.
    said: Option<File>,
}

/// Why the stepping has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So many steps have been made.
    Steps,
    /// The body has come to its next mark, or to its end.
    Mark,
    /// It was killed while it slept in a system call.
    KilledAsleep,
}

/// What to do with a victim that sleeps in a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asleep {
    /// It will wake up.
    Wait,
    Kill,
}

/// In a victim's body: stops it until the test goes on with it.
pub fn mark() {
    raise(Signal::SIGSTOP).unwrap();
}

/// How long a copy may take to start a thread.
const TRIAL: Duration = Duration::from_secs(2);

/// Forks; the copy runs `body` and ends.
///
/// A copy has the locks of the standard library as they were in the instant of the fork. If another
/// thread of the test program was starting or ending just then, one of them stays taken, and a copy
/// that starts a thread (as the library does when it opens a segment) waits for ever. So it tries that
/// first, and one that cannot do it is thrown away.
fn run_copy(body: impl FnOnce()) -> Pid {
    let parent = getpid();
    loop {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        // SAFETY: the copy has this thread alone. It allocates, which a fork keeps working, takes no
        // lock that another thread of the test program may have had, but for what is said above, and
        // never returns from here.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => {
                let mut tried = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                if poll(&mut tried, PollTimeout::try_from(TRIAL).unwrap()).unwrap() == 1 {
                    return child;
                }
                kill(child, Signal::SIGKILL).unwrap();
                waitpid(child, None).unwrap();
            }
            ForkResult::Child => {
                // It goes with the test, also if that is gone already: then PID 1 would be its tracer.
                set_pdeathsig(Signal::SIGKILL).unwrap();
                if getppid() != parent {
                    // SAFETY: ends the copy without the exit handlers that are the test program's.
                    unsafe { libc::_exit(1) }
                }
                std::thread::spawn(|| ()).join().unwrap();
                say(&writer, "tried");
                drop((reader, writer));
                let ended = std::panic::catch_unwind(AssertUnwindSafe(body));
                // SAFETY: ends the copy without the exit handlers that are the test program's.
                unsafe { libc::_exit(i32::from(ended.is_err())) }
            }
        }
    }
}

/// What has become of it: it is stopped, or has ended.
fn status_of(pid: Pid) -> WaitStatus {
    let begun = Instant::now();
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive => {
                assert!(begun.elapsed() < watchdog(), "a victim that neither stops nor ends");
                std::thread::sleep(Duration::from_micros(50));
            }
            status => return status,
        }
    }
}

impl Victim {
    /// Starts one, and lets it run up to its first mark.
    pub fn new(body: impl FnOnce()) -> Self {
        let pid = run_copy(|| {
            ptrace::traceme().unwrap();
            mark();
            body();
        });
        let victim = Self { pid, gone: false, said: None };
        assert_eq!(status_of(pid), WaitStatus::Stopped(pid, Signal::SIGSTOP));
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
        victim.go_on();
        victim
    }

    /// One whose body has something to say at its end: see `finish`.
    pub fn saying(body: &dyn Fn() -> String) -> Self {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut victim = Self::new(|| say(&writer, &body()));
        victim.said = Some(File::from(reader));
        victim
    }

    /// Lets it go on past its marks to its end; what it says.
    pub fn finish(mut self) -> String {
        loop {
            ptrace::cont(self.pid, None).unwrap();
            match status_of(self.pid) {
                WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
                WaitStatus::Exited(_, 0) => break,
                status => panic!("the victim's own end: {status:?}"),
            }
        }
        self.gone = true;
        hear(self.said.take().unwrap())
    }

    /// Lets it run up to its next mark.
    pub fn go_on(&self) {
        ptrace::cont(self.pid, None).unwrap();
        let status = status_of(self.pid);
        assert_eq!(status, WaitStatus::Stopped(self.pid, Signal::SIGSTOP), "a mark");
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Lets it run to `place`, if one is given, makes steps from there up to number `upto`, and shows
    /// `seen` what each has done. A thread of its own watches: when the victim sleeps, it asks `asleep`
    /// what to do, which may well wake it.
    pub fn step(
        &mut self,
        place: Option<Place>,
        upto: u64,
        mut seen: impl FnMut(),
        asleep: impl FnMut() -> Asleep + Send,
    ) -> End {
        let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let pid = self.pid;
        let end = std::thread::scope(|scope| {
            let watch = scope.spawn(|| watch(pid, &made, &over, asleep));
            let _end = EndOfWatch(&over, watch.thread());
            if let Some(place) = place {
                if let Some(end) = place.reach(pid) {
                    return end;
                }
                made.store(place.step, Ordering::Relaxed);
            }
            while made.load(Ordering::Relaxed) < upto {
                ptrace::step(pid, None).unwrap();
                match wait(pid) {
                    Stop::Trap => seen(),
                    Stop::End(end) => return end,
                }
                assert!(made.fetch_add(1, Ordering::Relaxed) < TOO_MANY, "no end of steps");
            }
            End::Steps
        });
        self.gone = end == End::KilledAsleep;
        end
    }

    pub fn kill(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            // It may have ended by itself, and a check have failed for that.
            let _ = kill(self.pid, Signal::SIGKILL);
            while matches!(waitpid(self.pid, None), Ok(WaitStatus::Stopped(..))) {}
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why a victim stands still.
pub enum Stop {
    Trap,
    End(End),
}

pub fn wait(pid: Pid) -> Stop {
    match waitpid(pid, None).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => Stop::Trap,
        WaitStatus::Stopped(_, Signal::SIGSTOP) => Stop::End(End::Mark),
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => Stop::End(End::KilledAsleep),
        status => panic!("the victim's own end: {status:?}"),
    }
}

/// However the stepping ends: with a failed check, too.
struct EndOfWatch<'a>(&'a AtomicBool, &'a Thread);

impl Drop for EndOfWatch<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

fn watch(pid: Pid, made: &AtomicU64, over: &AtomicBool, mut asleep: impl FnMut() -> Asleep) {
    let (mut before, mut since) = (u64::MAX, Instant::now());
    while !over.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(2));
        let now = made.load(Ordering::Relaxed);
        if now != before {
            since = Instant::now();
        } else if since.elapsed() > watchdog() {
            // Whoever steps it waits for its next stop.
            let _ = kill(pid, Signal::SIGKILL);
            panic!("a victim that neither steps nor ends");
        }
        if now == before && state(pid.as_raw() as u32) == 'S' && asleep() == Asleep::Kill {
            kill(pid, Signal::SIGKILL).unwrap();
            return;
        }
        before = now;
    }
}

/// The state of a process, as /proc/PID/stat has it: S is asleep, t stopped by its tracer.
pub fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

fn say(writer: &OwnedFd, said: &str) {
    let line = format!("{said}\n");
    assert_eq!(nix::unistd::write(writer, line.as_bytes()).unwrap(), line.len());
}

/// One piece, as it was written: other copies may have the pipe, too, so its end may be late.
fn hear(mut reader: File) -> String {
    let mut bytes = [0; 4096];
    let len = reader.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned()
}

/// What a copy of this process that has never had the library says to `body`.
pub fn in_a_process(body: impl FnOnce() -> String) -> String {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let pid = run_copy(|| {
        say(&writer, &body());
    });
    drop(writer);
    let said = hear(File::from(reader));
    assert_eq!(waitpid(pid, None).unwrap(), WaitStatus::Exited(pid, 0), "said: {said}");
    said
}

/// Whether processes can be single-stepped here, through atomic instructions too. (Where those are a load and a
/// conditional store, each step in between takes the store's condition away.)
pub fn can_step() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(steps_through_atomics)
}

fn steps_through_atomics() -> bool {
    let pid = run_copy(|| {
        if ptrace::traceme().is_err() {
            return;
        }
        mark();
        static WORD: AtomicU64 = AtomicU64::new(0);
        WORD.fetch_xor(3, Ordering::AcqRel);
        mark();
    });
    let stopped = waitpid(pid, None).unwrap();
    if !matches!(stopped, WaitStatus::Stopped(..)) {
        return false;
    }
    let mut victim = Victim { pid, gone: false, said: None };
    // It takes some hundred.
    let ended = (0..5_000).find_map(|_| match ptrace::step(pid, None) {
        Err(Errno::EIO) => Some(false),
        outcome => {
            outcome.unwrap();
            let status = waitpid(pid, None).unwrap();
            (status == WaitStatus::Stopped(pid, Signal::SIGSTOP)).then_some(true)
        }
    });
    victim.kill();
    ended == Some(true)
}

/// The file's first pages in this process, for as long as it lives: /proc/PID/maps shows them.
pub fn map(path: &std::path::Path) {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let file = File::open(path).unwrap();
    let len = std::num::NonZeroUsize::new(4096).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing ever uses.
    unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0) }.unwrap();
}
