//! What the tests with several processes share: segments that go away, and child processes.
//!
//! A child is this very test program, started again for the one test `child_entry`, which does what it
//! is told over its standard input. (A fork of a program that has the library loaded is refused by it.)

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub mod faults;
pub mod place;
pub mod steps;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use robust_lock_core::{Code, Error, Manager, Mode, OpenOptions};

/// How many times as long as usual anything may take: more than 1 on an emulated machine.
pub fn patience() -> u32 {
    let times = std::env::var("ROBUST_LOCK_TEST_PATIENCE").ok();
    times.map_or(1, |times| times.parse().unwrap())
}

/// How long anything may take before it is said to hang.
pub fn watchdog() -> Duration {
    Duration::from_secs(60) * patience()
}

/// A path in /dev/shm that nobody else uses; the file goes with it.
pub struct TempSegment(pub PathBuf);

impl TempSegment {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        Self(PathBuf::from(format!("/dev/shm/robust-lock-test-{pid}-{count}-{name}")))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn manager(&self) -> Manager {
        open(self.path(), None)
    }
}

impl Drop for TempSegment {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn options(path: &Path) -> OpenOptions {
    OpenOptions { path: path.to_owned(), mode: Mode::OpenOrCreate, capacity: None, in_use: vec![] }
}

pub fn open(path: &Path, capacity: Option<u32>) -> Manager {
    Manager::open(&OpenOptions { capacity, ..options(path) }).unwrap().0
}

/// The refusal of an open; its message says something.
pub fn refused(path: &Path, mode: Mode) -> Error {
    let error = Manager::open(&OpenOptions { mode, ..options(path) }).err().expect("a refusal");
    assert!(error.message.len() > 20, "{error}");
    error
}

pub fn code(path: &Path) -> Code {
    refused(path, Mode::OpenOrCreate).code
}

/// A child process that answers lines with lines.
pub struct Peer {
    pub child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Peer {
    pub fn new() -> Self {
        Self::through(Command::new(std::env::current_exe().unwrap()))
    }

    /// Through a command that ends by starting this program: unshare, prlimit.
    pub fn through(mut command: Command) -> Self {
        let mut child = command
            .args(["--exact", "child_entry", "--nocapture", "--test-threads=1"])
            .env("ROBUST_LOCK_TEST_CHILD", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test harness has things to say on the same pipe.
                if let Some((_, said)) = line.split_once("> ")
                    && send.send(said.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        Self { child, stdin, lines }
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
        self.stdin.flush().unwrap();
    }

    pub fn hear(&mut self) -> String {
        self.lines.recv_timeout(watchdog()).expect("an answer of the child")
    }

    /// Its answer, if it is there already.
    pub fn heard(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Its answer, or None if there is none in that time.
    pub fn hear_within(&mut self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Its answer, or None if it has ended without one.
    pub fn hear_or_end(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.lines.recv_timeout(watchdog()) {
            Ok(said) => Some(said),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("neither an answer nor an end"),
        }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A segment that this process has never opened: what it has open it does not look at again. The
/// child's `open PATH` ends with whether it created it.
pub fn made_by_a_child(name: &str) -> TempSegment {
    let segment = TempSegment::new(name);
    let answer = Peer::new().ask(&format!("open {}", segment.path().display()));
    assert!(answer.ends_with("true"), "{answer}");
    segment
}

/// The child's side: hands each line to `answer`, until the parent is gone.
pub fn serve(mut answer: impl FnMut(&[&str]) -> String) {
    if std::env::var_os("ROBUST_LOCK_TEST_CHILD").is_none() {
        return;
    }
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let said = answer(&words);
        if !said.is_empty() {
            println!("\n> {said}");
        }
    }
    std::process::exit(0);
}

/// Looks again and again until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < watchdog(), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Places in the file, as crates/core/src/layout.rs has them.
pub const STAMPS_AT: u64 = 128;
pub const ADMIN_AT: u64 = 256;
pub const BITMAP_AT: u64 = 4096;
pub const CHUNK_MAP_AT: u64 = 137_280;
pub const SLOTS_AT: u64 = 196_608;
pub const GATES_AT: [u64; 2] = [64, 128];
pub const DIRTY_AT: u64 = 48;
pub const TOKEN_AT: u64 = 56;
pub const TURN_AT: u64 = 112;
pub const WOKEN_AT: u64 = 120;
pub const TURN_BEGAN_AT: u64 = 208;

pub fn slot_at(id: u32) -> u64 {
    SLOTS_AT + u64::from(id) * 256
}

/// Where the lock word stands in a mutex: the header says it.
pub fn word_offset(path: &Path) -> u64 {
    u64::from(u32::from_ne_bytes(read(path, 32)))
}

pub fn read<const N: usize>(path: &Path, at: u64) -> [u8; N] {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; N];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

pub fn patch(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}
