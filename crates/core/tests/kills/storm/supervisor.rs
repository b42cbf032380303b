//! The storm: forks workers, kills them at random instants, reaps and replaces them, and watches.
//!
//! The supervisor itself never uses the library while it forks: a copy of a process that has would be
//! refused by it. What has to be looked at through the library, a forked auditor looks at.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::page::{IDS, LOCKS, PHASES, PLACES, Page, Phase, Who, Wrong};
use super::watchdog::Watchdog;
use super::{lost, worker};

/// After so many kills the storm stops, an auditor looks at what is there, and a new segment is begun.
const ROUND: u64 = 1_000;
/// After so many kills nobody begins anew until all who wait have had their locks: a waiter that sleeps
/// on would not be noticed among others who come and go.
const CALM_AFTER: u64 = 100;
/// How long that may take.
const CALM: Duration = Duration::from_secs(20);
/// How long the auditor may take for anything.
const AUDIT: Duration = Duration::from_secs(60);

/// What the storm did; what went wrong stands in the page.
#[derive(Default)]
pub struct Tally {
    pub kills: u64,
    /// Of the kills: those after which the memory was torn down first.
    pub torn_down: u64,
    /// Of the kills: those of a worker that was stopped.
    pub stopped: u64,
    /// Of the kills, by what the worker was at.
    pub in_phase: [u64; PHASES.len()],
    /// Of the kills: those inside a critical section.
    pub inside: u64,
    pub acquisitions: u64,
    pub announced: u64,
    /// The longest time for which waiters slept and a lock was free.
    pub longest_free: Duration,
    /// The longest time until all who waited had had their locks.
    pub longest_calm: Duration,
}

pub struct Storm {
    page: &'static Page,
    pub tally: Tally,
    random: Rng,
    pids: [Option<Pid>; PLACES],
    serial: u64,
    round: Round,
}

/// What belongs to one segment.
struct Round {
    path: PathBuf,
    capacity: u32,
    /// Deaths between the beginning of an acquisition and the end of the release.
    possible: [u64; LOCKS],
    /// Deaths in an allocation or a freeing: each may have leaked an id.
    excused: u64,
    torn_down: u64,
    /// The part of the header that never changes, as soon as it is there.
    header: Option<[u8; 192]>,
}

impl Round {
    fn new(number: u64, random: &mut Rng) -> Self {
        let name = format!("/dev/shm/robust-lock-test-{}-kills-{number}", std::process::id());
        let capacity = [LOCKS as u32 + 8, 300, IDS as u32][random.usize(..3)];
        Self {
            path: name.into(),
            capacity,
            possible: [0; LOCKS],
            excused: 0,
            torn_down: 0,
            header: None,
        }
    }

    fn read_header(&self) -> Option<[u8; 192]> {
        let mut header = [0; 192];
        File::open(&self.path).ok()?.read_exact_at(&mut header, 0).ok().map(|()| header)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Storm {
    pub fn new(page: &'static Page, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let round = Round::new(0, &mut random);
        let pids = [None; PLACES];
        Self { page, tally: Tally::default(), random, pids, serial: 0, round }
    }

    /// Until there were so many kills, or `progress`, which is told after each segment, says no.
    pub fn run(&mut self, kills: u64, mut progress: impl FnMut(&Self) -> bool) {
        let mut goes_on = true;
        while goes_on && self.tally.kills < kills {
            let end = kills.min(self.tally.kills + ROUND);
            self.run_round(end);
            self.audit();
            self.round = Round::new(self.serial, &mut self.random);
            goes_on = progress(self);
        }
    }

    fn run_round(&mut self, end: u64) {
        self.page.forget();
        for place in 0..PLACES {
            self.start(place);
        }
        let mut watchdog = Watchdog::new(&self.round.path);
        let mut calm_at = self.tally.kills + CALM_AFTER;
        while self.tally.kills < end && !watchdog.barked {
            self.let_work(&mut watchdog);
            // Now and then two at one instant.
            let first = self.random.usize(..PLACES);
            let second = (first + self.random.usize(1..PLACES)) % PLACES;
            let victims = if self.random.u32(..8) == 0 { vec![first, second] } else { vec![first] };
            for &place in &victims {
                self.kill(place);
            }
            for place in victims {
                self.reap(place);
                self.start(place);
            }
            if self.random.u32(..16) == 0 {
                // In its first steps.
                std::thread::sleep(Duration::from_micros(self.random.u64(..700)));
                self.kill(first);
                self.reap(first);
                self.start(first);
            }
            if self.round.header.is_none() {
                self.round.header = self.round.read_header();
            }
            if self.tally.kills >= calm_at {
                calm_at = self.tally.kills + CALM_AFTER;
                self.calm_down(&mut watchdog);
            }
        }
        self.tally.longest_free = self.tally.longest_free.max(watchdog.longest);
        for place in 0..PLACES {
            self.page.places[place].doomed.store(self.page.places[place].who.load(SeqCst), SeqCst);
            self.kill(place);
        }
        for place in 0..PLACES {
            self.reap(place);
        }
    }

    /// Lets the others get somewhere, on a fast machine as on a slow one, and not for long.
    fn let_work(&mut self, watchdog: &mut Watchdog) {
        let begun = Instant::now();
        let enough = self.page.acquisitions() + self.random.u64(..60);
        while self.page.acquisitions() < enough && begun.elapsed() < Duration::from_millis(20) {
            std::thread::sleep(Duration::from_micros(self.random.u64(20..300)));
        }
        watchdog.look(self.page, &self.pids);
    }

    /// Nobody comes, and nobody is killed: whoever waits gets its lock.
    fn calm_down(&mut self, watchdog: &mut Watchdog) {
        self.page.calm.store(1, SeqCst);
        let begun = Instant::now();
        let is_out = |place: &super::page::Place| place.at.load(SeqCst) == 0;
        while !self.page.places.iter().all(is_out) && !watchdog.barked {
            if begun.elapsed() > CALM {
                self.page.note(Wrong::Stuck, || "somebody does not get out".to_owned());
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
            watchdog.look(self.page, &self.pids);
        }
        self.tally.longest_calm = self.tally.longest_calm.max(begun.elapsed());
        self.page.calm.store(0, SeqCst);
    }

    fn start(&mut self, place: usize) {
        self.serial += 1;
        let me = Who::new(place, self.serial);
        let its = &self.page.places[place];
        its.phase.store(Phase::Opening as u32, SeqCst);
        its.at.store(0, SeqCst);
        its.waiting.store(0, SeqCst);
        its.who.store(me.0, SeqCst);
        let (page, path, capacity) = (self.page, self.round.path.clone(), self.round.capacity);
        let seed = self.random.u64(..);
        self.pids[place] = Some(forked(|| worker::work(page, me, &path, capacity, seed)));
    }

    fn kill(&mut self, place: usize) {
        let Some(pid) = self.pids[place] else { return };
        let its = &self.page.places[place];
        its.doomed.store(its.who.load(SeqCst), SeqCst);
        match self.random.u32(..16) {
            0 => {
                let _ = kill(pid, Signal::SIGSTOP);
                std::thread::sleep(Duration::from_micros(self.random.u64(..2_000)));
                let _ = kill(pid, Signal::SIGKILL);
                self.tally.stopped += 1;
            }
            1 | 2 => {
                let torn_down = u64::from(lost::kill_and_tear_down(pid));
                self.tally.torn_down += torn_down;
                self.round.torn_down += torn_down;
            }
            _ => {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// Waits for the end of a worker, and notes what it may have left.
    fn reap(&mut self, place: usize) {
        let Some(pid) = self.pids[place].take() else { return };
        let end = reaped(pid);
        if !matches!(end, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            self.page.note(Wrong::Failure, || format!("a worker ended by itself: {end:?}"));
        }
        let its = &self.page.places[place];
        let who = its.who.load(SeqCst);
        let phase = its.phase.load(SeqCst);
        self.tally.kills += 1;
        self.tally.in_phase[phase as usize] += 1;
        self.round.excused += u64::from(phase == Phase::Pool as u32);
        for (lock, possible) in self.round.possible.iter_mut().enumerate() {
            *possible += u64::from(its.at.load(SeqCst) & (1 << lock) != 0);
        }
        let inside = |lock: &super::page::Record| lock.holder.load(SeqCst) == who;
        self.tally.inside += u64::from(self.page.records.iter().any(inside));
        // From here on whoever finds its name knows that it is dead.
        its.who.store(0, SeqCst);
    }

    /// All are dead: what have they left?
    fn audit(&mut self) {
        let (page, round) = (self.page, &self.round);
        if round.read_header() != round.header {
            page.note(Wrong::Failure, || "the header has changed".to_owned());
        }
        let leaked = super::audit::leaked(page, &round.path, round.capacity);
        let me = Who::new(0, self.serial + 1);
        page.places[0].who.store(me.0, SeqCst);
        let auditor = forked(|| {
            super::audit::audit(page, me, &round.path, round.capacity, round.torn_down == 0);
            exit(0)
        });
        let begun = Instant::now();
        loop {
            match waitpid(auditor, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if begun.elapsed() < AUDIT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(WaitStatus::Exited(_, 0)) => break,
                end => {
                    page.note(Wrong::Failure, || format!("the auditor: {end:?}"));
                    let _ = kill(auditor, Signal::SIGKILL);
                    reaped(auditor);
                    break;
                }
            }
        }
        self.serial += 1;
        page.places[0].who.store(0, SeqCst);
        if leaked > round.excused {
            let excused = round.excused;
            page.note(Wrong::Leaked, || format!("{leaked}, of which {excused} are explained"));
        }
        for (lock, record) in page.records.iter().enumerate() {
            let announced = record.announced.load(SeqCst);
            let explained = round.possible[lock] + record.unrepaired.load(SeqCst);
            if announced > explained {
                page.note(Wrong::FalseAlarm, || {
                    format!("lock {lock}: {announced} owner's deaths announced, {explained} known")
                });
            }
            self.tally.announced += announced;
        }
        self.tally.acquisitions += page.acquisitions();
    }
}

/// A child that runs `job`, and goes with its parent.
fn forked(job: impl FnOnce() -> std::convert::Infallible) -> Pid {
    // SAFETY: this program has one thread, so its copy may do what it likes.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            let run = std::panic::AssertUnwindSafe(|| match job() {});
            let _ = std::panic::catch_unwind(run);
            exit(101)
        }
    }
}

/// Without the exit handlers, which are the parent's.
fn exit(code: i32) -> ! {
    // SAFETY: ends this process; no memory is involved.
    unsafe { nix::libc::_exit(code) }
}

fn reaped(pid: Pid) -> WaitStatus {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            end => return end.unwrap(),
        }
    }
}

/// What happened and what was wrong, by name.
pub fn figures(page: &Page, tally: &Tally) -> Vec<(&'static str, u64)> {
    let wrong = |kind| page.count(kind);
    let around = tally.in_phase[Phase::Locking as usize] - tally.inside;
    vec![
        ("kills", tally.kills),
        ("of them inside", tally.inside),
        ("waiting or around", around),
        ("in the pool", tally.in_phase[Phase::Pool as usize]),
        ("opening", tally.in_phase[Phase::Opening as usize]),
        ("stopped", tally.stopped),
        ("torn down first", tally.torn_down),
        ("acquisitions", tally.acquisitions),
        ("owner deaths announced", tally.announced),
        ("ms on a free lock at most", tally.longest_free.as_millis() as u64),
        ("ms to a calm at most", tally.longest_calm.as_millis() as u64),
        ("double holds", wrong(Wrong::DoubleHold)),
        ("stuck", wrong(Wrong::Stuck)),
        ("leaked", wrong(Wrong::Leaked)),
        ("unannounced deaths", wrong(Wrong::Unannounced)),
        ("false alarms", wrong(Wrong::FalseAlarm)),
        ("double allocations", wrong(Wrong::DoubleAllocation)),
        ("lost allocations", wrong(Wrong::LostAllocation)),
        ("tokens that fell", wrong(Wrong::Token)),
        ("failures", wrong(Wrong::Failure)),
    ]
}

/// Whether nothing was wrong.
pub fn is_clean(page: &Page) -> bool {
    super::page::WRONGS.iter().all(|&kind| page.count(kind) == 0)
}

/// Where a lock's mutexes stand in the file; see crates/core/src/layout.rs.
pub fn word(path: &Path, at: u64) -> Option<u32> {
    let file = File::open(path).ok()?;
    let read = |at| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).ok().map(|()| u32::from_ne_bytes(bytes))
    };
    read(at + u64::from(read(32)?))
}
