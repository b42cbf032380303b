//! How long a modest process waits beside greedy ones: our lock against a plain robust mutex and against
//! no lock at all, in one run, interleaved.
//!
//!     cargo run --release -p robust-lock-core --example fairness -- [ROUNDS] [SECONDS]
//!
//! Prints the victim's wait (p50, p99, longest; ms) and the throughput of all, medians over the rounds,
//! and the two ratios against the plain mutex. Times of a shared machine are no claims; ratios are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measuring program")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use robust_lock_core::{Lock, Manager, Mode, OpenOptions};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    None,
    Plain,
    Ours,
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::None, "none"), (Kind::Plain, "plain"), (Kind::Ours, "ours")];

/// A plain robust mutex in the same slot, beside ours: gate b of lock 1, which nobody waits at.
struct Plain(*mut libc::pthread_mutex_t);

impl Plain {
    fn map(path: &Path) -> Self {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that is long enough.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), 1 << 20, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: within the mapping: slot 1 begins at 196608 + 256, its second gate 128 bytes on.
        Self(unsafe { at.cast::<u8>().add(196_608 + 256 + 128) }.cast())
    }

    fn hold(&self, work: impl FnOnce()) {
        // SAFETY: an initialised mutex of a mapping that stays.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0) }, 0);
        work();
        // SAFETY: this thread has it.
        unsafe { libc::pthread_mutex_unlock(self.0) };
    }
}

fn open(path: &Path) -> (Manager, Lock) {
    let options =
        OpenOptions { path: path.into(), mode: Mode::OpenOrCreate, capacity: None, in_use: vec![] };
    let manager = Manager::open(&options).unwrap().0;
    manager.retrieve(0).unwrap();
    let lock = manager.lock(0).unwrap();
    (manager, lock)
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// A child: `greedy` takes the lock as often as it can, a victim every 2 ms or so. Answers with its count
/// and, in µs, its waits.
fn child(role: &str, kind: Kind, path: &Path, hold: Duration, seconds: f64) {
    let (_, lock) = open(path);
    let plain = Plain::map(path);
    println!("ready");
    std::io::stdin().lines().next();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut waits = Vec::new();
    while Instant::now() < end {
        if role == "victim" {
            std::thread::sleep(Duration::from_millis(2));
        }
        let begun = Instant::now();
        let mut waited = Duration::ZERO;
        let mut work = || {
            waited = begun.elapsed();
            spin(if role == "victim" { Duration::from_micros(20) } else { hold });
        };
        match kind {
            Kind::None => work(),
            Kind::Plain => plain.hold(work),
            Kind::Ours => {
                lock.acquire(None, &mut || true).unwrap();
                work();
                lock.release(false).unwrap();
            }
        }
        waits.push(waited.as_micros());
    }
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!("{} {} {} {}", waits.len(), at(0.5), at(0.99), at(1.0));
    std::io::stdout().flush().unwrap();
}

struct Outcome {
    p50: f64,
    p99: f64,
    longest: f64,
    per_second: f64,
}

fn round(path: &Path, kind: &str, greedy: usize, hold_us: u64, seconds: f64) -> Outcome {
    let start = |role: &str| -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", role, kind, path.to_str().unwrap()])
            .args([hold_us.to_string(), seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        (child, out)
    };
    let mut children: Vec<_> = (0..greedy).map(|_| start("greedy")).collect();
    children.push(start("victim"));
    for (child, _) in &mut children {
        writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();
    }
    let mut answers: Vec<Vec<f64>> = Vec::new();
    for (child, out) in &mut children {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        child.wait().unwrap();
        answers.push(line.split_whitespace().map(|word| word.parse().unwrap()).collect());
    }
    let victim = answers.last().unwrap();
    Outcome {
        p50: victim[1] / 1e3,
        p99: victim[2] / 1e3,
        longest: victim[3] / 1e3,
        per_second: answers.iter().map(|answer| answer[0]).sum::<f64>() / seconds,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "child") {
        let kind = KINDS.iter().find(|(_, name)| *name == args[3]).unwrap().0;
        let hold = Duration::from_micros(args[5].parse().unwrap());
        return child(&args[2], kind, Path::new(&args[4]), hold, args[6].parse().unwrap());
    }
    let number = |at: usize, default: f64| args.get(at).map_or(default, |arg| arg.parse().unwrap());
    let (rounds, seconds) = (number(1, 3.0) as usize, number(2, 4.0));
    let path = PathBuf::from(format!("/dev/shm/robust-lock-fairness-{}", std::process::id()));
    let (manager, _) = open(&path);
    manager.allocate().unwrap();
    println!("greedy  hold µs  lock    p50 ms   p99 ms   longest  acq/s    p99/plain  acq/plain");
    for (greedy, hold) in [(3, 20), (3, 1_000), (7, 20), (7, 1_000)] {
        let mut outcomes: [Vec<Outcome>; 3] = Default::default();
        for _ in 0..rounds {
            for ((_, name), outcomes) in KINDS.iter().zip(&mut outcomes) {
                outcomes.push(round(&path, name, greedy, hold, seconds));
            }
        }
        let of =
            |at: usize, what: fn(&Outcome) -> f64| median(outcomes[at].iter().map(what).collect());
        for (at, (_, name)) in KINDS.iter().enumerate() {
            let (p99, rate) = (of(at, |o| o.p99), of(at, |o| o.per_second));
            let (plain_p99, plain_rate) = (of(1, |o| o.p99), of(1, |o| o.per_second));
            println!(
                "{greedy:6}  {hold:7}  {name:6} {:8.3} {p99:8.3} {:9.1} {rate:8.0} {:10.3} {:10.2}",
                of(at, |o| o.p50),
                of(at, |o| o.longest),
                p99 / plain_p99,
                rate / plain_rate,
            );
        }
    }
    std::fs::remove_file(&path).unwrap();
}
