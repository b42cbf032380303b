//! What stands around a victim: a segment, processes that hold its lock and wait for it, and one that
//! looks after each death whether all is well.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use robust_lock_core::{Acquired, Handle, Lock, Manager, Refusal};

use crate::support::{self, Peer, TempSegment, open, patch, serve, slot_at, until};
use crate::victim::{Victim, mark, state};

/// Within which time a lock must be had after a death: two seconds, longer on an emulated machine.
fn limit() -> Duration {
    support::watchdog() / 30
}

const TID: u32 = 0x3fff_ffff;
const WAITERS: u32 = 0x8000_0000;

/// The processes' side. A lock answers "got TOKEN DIED". `take` says "trying" first, and releases at once.
pub fn child() {
    let mut manager: Option<Manager> = None;
    serve(|words| {
        let id = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let pool = || manager.unwrap();
        let lock = || -> Lock { pool().lock(id).unwrap() };
        match words[0] {
            "open" => {
                let opened = open(Path::new(words[1]), None);
                opened.retrieve(0).unwrap();
                manager = Some(opened);
                own_tid()
            }
            "tid" => own_tid(),
            "lock" => told(lock().acquire(Some(limit().as_millis() as f64), &mut || true)),
            "take" => {
                println!("\n> trying");
                let said = told(lock().acquire(None, &mut || true));
                lock().release(false).unwrap();
                said
            }
            "try" => told(lock().try_acquire()),
            "release" => format!("{:?}", lock().release(false)),
            "held" => format!("{:?}", pool().locks_held()),
            "allocate" => format!("{:?}", pool().allocate().map(|handle| handle.id)),
            "given" => format!("{:?}", pool().allocate_given(id).map(|handle| handle.id)),
            "free-all" => format!("{:?}", pool().free_all()),
            "free" => format!("{:?}", pool().free(Handle { id, generation: None })),
            "retrieve" => format!("{:?}", pool().retrieve(id).map(|handle| handle.id)),
            "all" => all(pool(), id),
            "none" => {
                let got = |&id: &u32| pool().lock(id).unwrap().try_acquire().is_ok();
                format!("{:?}", (0..id).filter(got).collect::<Vec<_>>())
            }
            "release-all" => {
                (0..id).for_each(|id| pool().lock(id).unwrap().release(false).unwrap());
                "done".to_owned()
            }
            "allocate-all" => format!("{:?}", allocate_all(pool())),
            _ => panic!("no such command: {words:?}"),
        }
    });
}

/// Takes the first locks, so many, at once: those that are not to be had, and those that tell of a death.
fn all(manager: Manager, count: u32) -> String {
    let (mut refused, mut told) = (vec![], vec![]);
    for id in 0..count {
        let lock = manager.lock(id).unwrap();
        match lock.acquire(Some(limit().as_millis() as f64), &mut || true) {
            Ok(Acquired { owner_died: true, .. }) => told.push(id),
            Ok(_) => {}
            Err(_) => refused.push(id),
        }
    }
    format!("refused {refused:?}, told {told:?}")
}

/// Every id that is to be had, in the order in which it was.
fn allocate_all(manager: Manager) -> Vec<u32> {
    std::iter::from_fn(|| manager.allocate().ok()).map(|handle| handle.id).collect()
}

fn own_tid() -> String {
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    thread.file_name().unwrap().to_str().unwrap().to_owned()
}

fn told(outcome: Result<Acquired, Refusal>) -> String {
    match outcome {
        Ok(Acquired { owner_died, token }) => format!("got {token} {owner_died}"),
        Err(refusal) => format!("{refusal:?}"),
    }
}

/// A token and whether its holder was told of a death.
pub fn got(said: &str) -> (u64, bool) {
    let words: Vec<&str> = said.split(' ').collect();
    let ["got", token, died] = words[..] else { panic!("it did not get the lock: {said}") };
    (token.parse().unwrap(), died.parse().unwrap())
}

/// The id in an answer "Ok(ID)".
pub fn id_in(said: &str) -> u32 {
    let id = said.strip_prefix("Ok(").and_then(|rest| rest.strip_suffix(')'));
    id.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

/// For a victim. The first use of a chunk in a process, with its look at all locks of it, is not the
/// operation's: it comes before.
pub fn open_and_look(path: &Path) -> Manager {
    let manager = open(path, None);
    manager.retrieve(1).unwrap();
    manager
}

/// Lock 0 as it lies in the file, read without the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub owner: u32,
    pub word: u32,
    pub dirty: u32,
    pub generation: u32,
    pub token: u64,
    pub gates: [u32; 2],
}

impl Look {
    /// Somebody is or died inside the present allocation's section.
    pub fn is_dirty(&self) -> bool {
        self.dirty == self.generation | 1 << 31
    }
}

/// The file, and what must never change in it.
pub struct View {
    pub file: File,
    word: usize,
    head: [u8; 192],
}

impl View {
    pub fn new(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut head = [0; 192];
        file.read_exact_at(&mut head, 0).unwrap();
        Self { file, word: support::word_offset(path) as usize, head }
    }

    pub fn look(&self) -> Look {
        let mut bytes = [0u8; 192];
        self.file.read_exact_at(&mut bytes, slot_at(0)).unwrap();
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let word = u32_at(self.word);
        Look {
            owner: word & TID,
            word,
            dirty: u32_at(48),
            generation: u32_at(52),
            token: u64::from_ne_bytes(bytes[56..64].try_into().unwrap()),
            gates: [u32_at(64 + self.word), u32_at(128 + self.word)],
        }
    }

    pub fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// The ids below 64 that are allocated.
    pub fn allocated(&self) -> BTreeSet<u32> {
        let word = u64::from_ne_bytes(self.read(support::BITMAP_AT));
        (0..64).filter(|bit| word & (1 << bit) != 0).collect()
    }

    pub fn check_header(&self) {
        let mut head = [0; 192];
        self.file.read_exact_at(&mut head, 0).unwrap();
        assert!(head == self.head, "the header has changed");
    }
}

/// A process, and what it is at.
pub struct Actor {
    peer: Peer,
    pub tid: u32,
    /// It was told to do something, and has not answered yet.
    waits: bool,
    pub holds: bool,
}

impl Actor {
    pub fn new(path: &Path) -> Self {
        let mut peer = Peer::new();
        let tid = peer.ask(&format!("open {}", path.display())).parse().unwrap();
        Self { peer, tid, waits: false, holds: false }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.peer.ask(line)
    }

    /// Without waiting for an answer: see `hear`.
    pub fn tell(&mut self, line: &str) {
        self.peer.tell(line);
        self.waits = true;
    }

    /// What it says within the time in which anything must be had after a death; None if it was told
    /// nothing.
    pub fn hear(&mut self) -> Option<String> {
        let said = std::mem::take(&mut self.waits).then(|| self.peer.hear_within(limit()));
        said.map(|said| said.expect("who waits for what is free sleeps"))
    }

    /// Lets it wait for the lock; returns when it sleeps, or has had it.
    pub fn take(&mut self) {
        assert_eq!(self.ask("take 0"), "trying");
        self.waits = true;
        until("it waits or has had it", || state(self.tid) == 'S');
    }

    pub fn lock(&mut self) -> (u64, bool) {
        self.holds = true;
        got(&self.ask("lock 0"))
    }

    /// Takes the first locks, so many: each is to be had, those of `died` tell of a death, nobody else gets
    /// one meanwhile, and all are listed.
    pub fn has_all(&mut self, count: u32, died: &[u32], other: &mut Self, place: &str) {
        let all = format!("{:?}", (0..count).collect::<Vec<_>>());
        let taken = self.ask(&format!("all {count}"));
        assert_eq!(taken, format!("refused [], told {died:?}"), "{place}");
        assert_eq!(other.ask(&format!("none {count}")), "[]", "{place}: two holders");
        assert_eq!(other.ask("held"), all, "{place}: locksHeld");
        assert_eq!(self.ask(&format!("release-all {count}")), "done", "{place}");
        assert_eq!(other.ask("held"), "[]", "{place}: locksHeld of free locks");
    }

    pub fn release(&mut self) {
        if std::mem::take(&mut self.holds) {
            assert_eq!(self.ask("release 0"), "Ok(())");
        }
    }
}

pub struct Crew {
    pub path: std::path::PathBuf,
    pub holder: Actor,
    pub waiter: Actor,
    pub second: Actor,
    pub checker: Actor,
    /// They have the segment, hold nothing, and stand for whoever does not run.
    idle: [Actor; 2],
    /// A process that does not have the segment.
    stranger: Peer,
}

pub struct Scene {
    /// The file goes with it.
    pub segment: TempSegment,
    pub view: View,
    pub crew: Crew,
}

impl Scene {
    /// A segment whose locks 0 and 1 are allocated, and processes that have it open.
    pub fn new(name: &str) -> Self {
        let segment = TempSegment::new(name);
        let path = segment.path().to_owned();
        let mut checker = Actor::new(&path);
        assert_eq!(checker.ask("allocate"), "Ok(0)");
        assert_eq!(checker.ask("allocate"), "Ok(1)");
        let view = View::new(&path);
        let actor = || Actor::new(&path);
        let stranger = Peer::new();
        let (holder, waiter, second) = (actor(), actor(), actor());
        let idle = [actor(), actor()];
        let crew = Crew { holder, waiter, second, checker, idle, stranger, path };
        Self { segment, view, crew }
    }
}

impl Crew {
    /// Everybody has had the lock who waits for it; then it is free, whole, and excludes. `after`: the last
    /// token before the death, `died`: whether the first holder after it must be told.
    pub fn settle(&mut self, view: &View, after: u64, died: bool) {
        let Self { holder, waiter, second, checker, .. } = self;
        holder.release();
        let mut told = vec![];
        for actor in [&mut *second, &mut *waiter] {
            told.extend(actor.hear().as_deref().map(got));
        }
        told.push(checker.lock());
        assert_eq!(waiter.ask("try 0"), "Busy", "two holders");
        assert_eq!(waiter.ask("held"), "[0]", "locksHeld");
        checker.release();
        assert_eq!(waiter.ask("held"), "[]", "locksHeld of a free lock");
        told.sort_unstable();
        told.retain(|&(token, told)| {
            assert!(token > after || !told, "told of a death that had not happened");
            token > after
        });
        assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "tokens: {told:?}");
        for (place, &(_, told)) in told.iter().enumerate() {
            assert_eq!(told, died && place == 0, "ownerDied of holder {place} after the death");
        }
        self.go_on_at_gates(view);
        self.set_turn(0);
        view.check_header();
        let end = view.look();
        assert_eq!((end.owner, end.dirty, end.gates.map(|gate| gate & TID)), (0, 0, [0; 2]));
    }

    /// A process dies with the lock in its hands, inside its section, or just before: then `dirty` is
    /// not written yet.
    pub fn die(&mut self, view: &View, inside: bool) {
        let path = self.path.clone();
        let mut victim = Victim::new(|| {
            open(&path, None).lock(0).unwrap().try_acquire().unwrap();
            mark();
        });
        assert_eq!((view.look().owner, view.look().is_dirty()), (victim.pid(), true));
        victim.kill();
        if !inside {
            patch(&self.path, slot_at(0) + support::DIRTY_AT, &[0; 4]);
        }
    }

    /// The lock word at `at` of lock 0 (main or a gate) names that thread.
    pub fn set_owner(&self, view: &View, at: u64, tid: u32) {
        patch(&self.path, slot_at(0) + at + view.word as u64, &tid.to_ne_bytes());
    }

    /// It names a thread that is gone.
    pub fn lose(&mut self, view: &View, at: u64) {
        let mut gone = Victim::new(mark);
        gone.kill();
        self.set_owner(view, at, gone.pid());
    }

    /// The same, and its TID is another process's now.
    pub fn lose_to_a_stranger(&mut self, view: &View, at: u64) {
        let tid = self.stranger.ask("tid").parse().unwrap();
        self.set_owner(view, at, tid);
    }

    /// The gate is closed, as if a process had been stopped there.
    pub fn stop_at_gate(&mut self, view: &View, gate: usize) {
        self.set_owner(view, support::GATES_AT[gate], self.idle[gate].tid);
    }

    /// The one that was stopped has gone on, and opened the gate.
    fn go_on_at_gates(&self, view: &View) {
        for (gate, owner) in view.look().gates.into_iter().enumerate() {
            if self.idle.iter().any(|idle| idle.tid == owner & TID) {
                self.set_owner(view, support::GATES_AT[gate], 0);
            }
        }
    }

    /// Which gate serves: 0 is a, 1 is b, 2 is none.
    pub fn set_turn(&self, turn: u32) {
        patch(&self.path, slot_at(0) + support::TURN_AT, &turn.to_ne_bytes());
    }

    /// The holder has the lock, and `second` waits for it behind the gate.
    pub fn close_gate(&mut self, view: &View) {
        self.holder.lock();
        self.second.take();
        let tid = self.second.tid;
        until("it stands behind the gate and waits for main", || {
            let now = view.look();
            now.word & WAITERS != 0 && now.gates.iter().any(|gate| gate & TID == tid)
        });
    }
}
