//! Kills a victim at every step of an operation in turn, and looks after each whether all is well.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::cell::Cell;
use std::time::Instant;

use robust_lock_core::{Lock, Manager};

use crate::jump::{Place, Trace};
use crate::scene::{Crew, Look, Scene, View};
use crate::support::{open, patience};
use crate::victim::{Asleep, End, Victim, can_step};

/// With musl they come after those with glibc, on the same machine: a quarter will do.
const SHARE: u64 = if cfg!(target_env = "musl") { 4 } else { 1 };

type Act<'a> = &'a (dyn Fn(&mut Crew, &View) + Sync);

/// An operation on lock 0, and what goes on around it.
#[derive(Clone, Copy)]
pub struct Scenario<'a> {
    /// The victim's: what it has to do first, a mark, the operation, and another mark.
    pub body: &'a dyn Fn(Manager, Lock),
    /// Before the victim starts.
    pub before: Act<'a>,
    /// When it is about to begin.
    pub ready: Act<'a>,
    /// Each time that it sleeps: what may wake it.
    pub asleep: &'a [Act<'a>],
    pub earlier: Earlier,
    /// How lock 0 looks when all is done, beside the victim's TID.
    pub done: &'a dyn Fn(&Look, u32) -> bool,
    /// Which steps are killed at.
    pub points: Points,
}

/// Whether an earlier holder has died before the operation begins, without a repair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    No,
    /// The operation declares it repaired.
    Death,
    /// The operation does not: whoever comes next is told, wherever it is killed.
    Kept,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Points {
    All,
    /// About so many, spread over all; at least as many as ROBUST_LOCK_POINTS says.
    Some(u64),
}

impl Points {
    /// At which of `steps` steps.
    fn of(self, steps: u64, trace: &Trace) -> Vec<u64> {
        let wanted = std::env::var("ROBUST_LOCK_POINTS").ok().and_then(|text| text.parse().ok());
        let (part, parts) = part();
        let count = match self {
            Self::Some(count) => (count / SHARE).max(wanted.unwrap_or(0)),
            Self::All => u64::MAX,
        };
        if count > steps {
            return (part..=steps).step_by(parts as usize).collect();
        }
        // Loops have most of the steps and little of the code: half of the points are outside of them.
        let mut points = sample(count / 2, &trace.rare());
        points.extend(sample(count - points.len() as u64, &(0..=steps).collect::<Vec<_>>()));
        points.push(steps);
        points.sort_unstable();
        points.dedup();
        points.into_iter().skip(part as usize).step_by(parts as usize).collect()
    }

    /// Has each point visited, after one run to the end that finds out how many steps there are. Returns
    /// how often the operation slept in it.
    pub fn visit(self, visit: &mut dyn FnMut(u64, Way) -> Visit) -> usize {
        let mut trace = Trace::default();
        let Visit { steps, sleeps, .. } = visit(u64::MAX, Way::Note(&mut trace));
        STEPS.set(STEPS.get() + steps);
        let mut points = self.of(steps, &trace).into_iter();
        let mut next = points.next();
        while let Some(step) = next {
            let mut end = visit(step, Way::Jump(&trace)).end;
            if end == End::Mark && step < steps {
                // It has gone another way, and not by the place that it was to be met at.
                end = visit(step, Way::Walk).end;
            }
            // A run may be longer than the first one: all means all.
            next = match end {
                End::Mark if step >= steps => None,
                _ if self == Self::All => Some(step + part().1),
                _ => points.next(),
            };
        }
        sleeps
    }
}

/// ROBUST_LOCK_PART=3/16: of all points the third one, and each sixteenth from there on. Which of how many,
/// from zero.
fn part() -> (u64, u64) {
    let Ok(text) = std::env::var("ROBUST_LOCK_PART") else { return (0, 1) };
    let (part, parts) = text.split_once('/').expect("a part, as 3/16");
    let (part, parts): (u64, u64) = (part.parse().unwrap(), parts.parse().unwrap());
    assert!((1..=parts).contains(&part), "there is no part {text}");
    (part - 1, parts)
}

/// One of each of `count` equal parts, never the same: what one run misses another one finds.
fn sample(count: u64, all: &[u64]) -> Vec<u64> {
    let count = count.min(all.len() as u64);
    let bound = |part: u64| (part * all.len() as u64 / count) as usize;
    (0..count).map(|part| all[fastrand::usize(bound(part)..bound(part + 1))]).collect()
}

/// How it comes to its step.
pub enum Way<'a> {
    Walk,
    /// And notes the way.
    Note(&'a mut Trace),
    Jump(&'a Trace),
}

impl Way<'_> {
    /// Where the stepping to `upto` begins.
    pub fn begin(&mut self, victim: &Victim, upto: u64) -> Option<Place> {
        self.note(victim.pid());
        if let Self::Jump(trace) = self { trace.before(upto) } else { None }
    }

    pub fn note(&mut self, pid: u32) {
        if let Self::Note(trace) = self {
            trace.note(pid);
        }
    }
}

/// What a run came to.
pub struct Visit {
    pub end: End,
    pub steps: u64,
    pub sleeps: usize,
}

/// One victim, up to one step; what is looked at while it stands there; its death.
pub fn killed_at(upto: u64, mut way: Way, body: &dyn Fn(), look: &mut dyn FnMut(End)) -> Visit {
    let mut victim = Victim::new(body);
    let pid = victim.pid();
    let place = way.begin(&victim, upto);
    let mut steps = place.as_ref().map_or(0, |place| place.step);
    let seen = || {
        steps += 1;
        way.note(pid);
    };
    let end = victim.step(place, upto, seen, || Asleep::Wait);
    look(end);
    victim.kill();
    Visit { end, steps, sleeps: 0 }
}

thread_local! {
    /// How many the operations of this thread's test have, since the last report.
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Says how often a victim of an operation was killed, for the soak to count.
pub fn report(name: &str, kills: u64, begun: Instant) {
    let (steps, seconds) = (STEPS.take(), begun.elapsed().as_secs_f64());
    println!("{name}: {kills} kills, of {steps} steps, {seconds:.1} s");
}

/// False, and a word about it, where processes cannot be single-stepped, or not in time: a step of an emulated
/// processor takes as long as a hundred of another one.
pub fn can_run() -> bool {
    let hindrance = if patience() > 1 {
        "this takes too long on an emulated processor, step by step"
    } else if !can_step() {
        "processes cannot be single-stepped here"
    } else {
        return true;
    };
    println!("not run: {hindrance}");
    false
}

#[derive(Clone, Copy)]
enum Kill {
    Step(u64),
    /// While it sleeps for that time.
    Asleep(usize),
}

impl Scenario<'_> {
    /// Alone; and with a waiter that begins to wait just before each death.
    pub fn run(&self, name: &str) {
        self.run_with(name, &[false, true]);
    }

    pub fn run_with(&self, name: &str, late_waiters: &[bool]) {
        let begun = Instant::now();
        let mut scene = Scene::new("point");
        let mut kills = 0;
        let mut kill = |kill, late, way: Way| {
            kills += 1;
            self.one(&mut scene, kill, late, way, name)
        };
        for &late in late_waiters {
            let sleeps = self.points.visit(&mut |step, way| {
                let (end, steps, sleeps) = kill(Kill::Step(step), late, way);
                Visit { end, steps, sleeps }
            });
            for sleep in 0..=sleeps.min(self.asleep.len()) {
                kill(Kill::Asleep(sleep), late, Way::Walk);
            }
        }
        report(name, kills, begun);
    }

    fn one(
        &self,
        scene: &mut Scene,
        kill: Kill,
        late: bool,
        mut way: Way,
        name: &str,
    ) -> (End, u64, usize) {
        let Scene { view, crew, .. } = scene;
        (self.before)(crew, view);
        let path = crew.path.clone();
        let mut victim = Victim::new(|| {
            let manager = open(&path, None);
            // Once elsewhere: what the first call in a process does is not the operation's.
            let other = manager.lock(1).unwrap();
            other.acquire(None, &mut || true).unwrap();
            other.release(false).unwrap();
            (self.body)(manager, manager.lock(0).unwrap());
        });
        let pid = victim.pid();
        (self.ready)(crew, view);
        let upto = if let Kill::Step(upto) = kill { upto } else { u64::MAX };
        let place = way.begin(&victim, upto);
        let mut steps = place.as_ref().map_or(0, |place| place.step);
        let (mut now, mut sleeps) = (place.is_none().then(|| view.look()), 0);
        let end = victim.step(
            place,
            upto,
            || {
                steps += 1;
                way.note(pid);
                let after = look_twice(view);
                if let Some(before) = now.replace(after) {
                    check_step(&before, &after, pid, &format!("{name}, step {steps}"));
                }
            },
            || {
                let sleep = sleeps;
                sleeps += 1;
                if matches!(kill, Kill::Asleep(fatal) if fatal == sleep) {
                    return Asleep::Kill;
                }
                if let Some(act) = self.asleep.get(sleep) {
                    act(crew, view);
                }
                Asleep::Wait
            },
        );
        let now = view.look();
        if end == End::Mark {
            assert!((self.done)(&now, pid), "{name} has not done it: {now:?}, victim {pid}");
        }
        let inside = now.owner == pid && now.is_dirty();
        if end != End::KilledAsleep {
            if late {
                crew.waiter.take();
            }
            if now.owner == pid {
                let held = if inside { "[0]" } else { "[]" };
                assert_eq!(crew.checker.ask("held"), held, "locksHeld, {name} after {steps} steps");
                assert_eq!(crew.checker.ask("try 0"), "Busy", "{name} after {steps} steps");
            }
        }
        let free_and_dirty = now.owner == 0 && now.is_dirty();
        let earlier = self.earlier != Earlier::No;
        assert!(earlier || !free_and_dirty, "{name} after {steps} steps: {now:?}");
        victim.kill();
        if self.earlier == Earlier::Kept {
            // Whoever was first after the release, be it before the death.
            crew.settle(view, 0, true);
        } else {
            crew.settle(view, now.token, inside || free_and_dirty);
        }
        (end, steps, sleeps)
    }
}

/// Others may be at work while the victim stands still: no half of one state and half of the next.
fn look_twice(view: &View) -> Look {
    let mut now = view.look();
    loop {
        let again = view.look();
        if again == now {
            return now;
        }
        now = again;
    }
}

/// Who may write what: `dirty` is the owner's alone. (A holder that has come and gone between two looks
/// leaves another token.)
fn check_step(before: &Look, now: &Look, victim: u32, place: &str) {
    let others = |look: &Look| look.owner != 0 && look.owner != victim;
    let same = before.token == now.token && before.dirty != now.dirty;
    if same && !others(before) && !others(now) {
        let its_own = before.owner == victim && now.owner == victim;
        assert!(its_own, "{place}: dirty is not its owner's: {before:?}, then {now:?}");
    }
    assert!(now.token >= before.token, "{place}: the token went back: {before:?}, then {now:?}");
}
