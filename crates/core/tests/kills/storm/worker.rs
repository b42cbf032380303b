//! A worker: takes locks in every way that the core has, allocates and frees, and looks each time
//! whether the oracles agree. It goes on until it is killed.

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;

use fastrand::Rng;
use robust_lock_core::{Acquired, Code, Handle, Lock, Manager, Mode, OpenOptions, Refusal};

use super::page::{LOCKS, Page, Phase, Who, Wrong};

pub struct Worker {
    page: &'static Page,
    me: Who,
    random: Rng,
    manager: Manager,
    locks: Vec<Lock>,
    /// Allocated by this worker, or taken over from a dead one.
    mine: Vec<Handle>,
}

/// Opens the segment, or creates it: the locks that all fight for are allocated from its first instant.
pub fn open(path: &Path, capacity: u32) -> (Manager, Vec<Lock>) {
    let options = OpenOptions {
        path: path.to_owned(),
        mode: Mode::OpenOrCreate,
        capacity: Some(capacity),
        in_use: (0..LOCKS as u32).collect(),
    };
    let manager = Manager::open(&options).unwrap().0;
    let lock = |id| manager.lock(manager.retrieve(id).unwrap().id).unwrap();
    (manager, (0..LOCKS as u32).map(lock).collect())
}

/// Never returns, but by a panic.
pub fn work(page: &'static Page, me: Who, path: &Path, capacity: u32, seed: u64) -> ! {
    let (manager, locks) = open(path, capacity);
    let random = Rng::with_seed(seed ^ me.0);
    let mut worker = Worker { page, me, random, manager, locks, mine: Vec::new() };
    loop {
        worker.phase(Phase::Idle);
        while page.calm.load(SeqCst) != 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        worker.step();
    }
}

impl Worker {
    fn phase(&self, phase: Phase) {
        self.page.places[self.me.place()].phase.store(phase as u32, SeqCst);
    }

    fn step(&mut self) {
        let lock = self.random.usize(..LOCKS);
        // Half of the workers mostly wait for each other; the other half never waits.
        let busy = !self.me.place().is_multiple_of(2);
        match if busy { self.random.u32(58..112) } else { self.random.u32(..90) } {
            0..32 => self.hold(lock, |lock| lock.acquire(None, &mut || true)),
            32..42 => self.hold(lock, |lock| lock.acquire(Some(0.5), &mut || true)),
            42..48 => self.offered(lock),
            48..52 => self.two(),
            52..62 => self.hold(lock, Lock::try_acquire),
            62..86 => self.allocate(),
            86..90 => self.take_over(),
            90..108 => self.free(),
            _ => self.look(lock),
        }
    }

    /// A moment in which a kill may fall: nothing, a spin, a switch, a sleep.
    fn pause(&mut self) {
        match self.random.u32(..32) {
            0..8 => {}
            8..28 => (0..self.random.u32(..3_000)).for_each(|_| std::hint::spin_loop()),
            28..31 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(self.random.u64(..500))),
        }
    }

    fn hold(&mut self, lock: usize, how: impl FnOnce(&Lock) -> Result<Acquired, Refusal>) {
        if let Some(acquired) = self.take(lock, how) {
            let keep = self.section(lock, acquired);
            self.leave(lock, keep);
        }
    }

    fn take(
        &mut self,
        lock: usize,
        how: impl FnOnce(&Lock) -> Result<Acquired, Refusal>,
    ) -> Option<Acquired> {
        let place = &self.page.places[self.me.place()];
        self.phase(Phase::Locking);
        place.at.fetch_or(1 << lock, SeqCst);
        place.waiting.store(lock as u32 + 1, SeqCst);
        let taken = how(&self.locks[lock]);
        place.waiting.store(0, SeqCst);
        if taken.is_err() {
            place.at.fetch_and(!(1 << lock), SeqCst);
        }
        self.allowed(taken)
    }

    fn allowed(&self, taken: Result<Acquired, Refusal>) -> Option<Acquired> {
        match taken {
            Ok(acquired) => Some(acquired),
            Err(Refusal::Busy | Refusal::TimedOut) => None,
            // A lost owner's TID is this thread's now: no proof, until this thread ends.
            Err(Refusal::Own) => {
                self.page.own_refusals.fetch_add(1, SeqCst);
                None
            }
            Err(refusal) => {
                self.page.note(Wrong::Failure, || format!("a lock says {refusal:?}"));
                None
            }
        }
    }

    /// Whether the lock is to be released without a repair.
    fn section(&mut self, lock: usize, acquired: Acquired) -> bool {
        let page = self.page;
        page.enter(lock, self.me, acquired);
        let keep = self.change(lock, acquired);
        if self.random.u32(..256) == 0 && !self.manager.locks_held().contains(&(lock as u32)) {
            page.note(Wrong::Failure, || "locksHeld does not list a lock that is held".to_owned());
        }
        page.exit(lock, self.me);
        keep
    }

    /// What is done inside. Of those who are told of a death some repair nothing, and leave it torn: the
    /// next one must be told, too.
    fn change(&mut self, lock: usize, acquired: Acquired) -> bool {
        let page = self.page;
        let keep = acquired.owner_died && self.random.u32(..8) == 0;
        if keep {
            page.tear(lock);
            self.pause();
            page.records[lock].unrepaired.fetch_add(1, SeqCst);
        } else {
            page.update(lock, || self.pause());
        }
        keep
    }

    /// Releases the lock: sometimes by a hand-over and another section.
    fn leave(&mut self, lock: usize, keep: bool) {
        if self.random.u32(..8) == 0 {
            match self.locks[lock].hand_over(keep) {
                Ok(acquired) => {
                    let keep = self.section(lock, acquired);
                    return self.release(lock, keep);
                }
                Err(Refusal::Busy) => {}
                Err(refusal) => {
                    self.page.note(Wrong::Failure, || format!("a hand-over says {refusal:?}"));
                }
            }
        }
        self.release(lock, keep);
    }

    fn release(&self, lock: usize, keep: bool) {
        if let Err(refusal) = self.locks[lock].release(keep) {
            self.page.note(Wrong::Failure, || format!("a release says {refusal:?}"));
        }
        self.page.places[self.me.place()].at.fetch_and(!(1 << lock), SeqCst);
    }

    /// As the binding does for `lock()`: a helper thread waits, and offers what it got. If the lock is taken all the same, it
    /// waits on behind the same gate, once. Who comes too late waits for main itself.
    fn offered(&mut self, lock: usize) {
        const PATIENCE: Duration = Duration::from_millis(5);
        let waited = self.locks[lock];
        let is_late = self.random.u32(..4) == 0;
        let (offer, offers) = channel();
        let (answer, answers) = channel::<bool>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let queue = || waited.wait_for_turn(&mut || true, &mut || true).map(Some);
                let mut turn = queue();
                let mut kept = false;
                loop {
                    turn = match turn {
                        Ok(Some(won)) => {
                            let _ = offer.send(None);
                            let in_vain = answers.recv_timeout(PATIENCE) == Ok(true);
                            if !in_vain {
                                return won.open_gate();
                            }
                            kept = !kept;
                            if kept {
                                waited.wait_again(won, &mut || true)
                            } else {
                                won.open_gate();
                                queue()
                            }
                        }
                        Ok(None) => queue(),
                        Err(refusal) => {
                            let _ = offer.send(Some(refusal));
                            return;
                        }
                    }
                }
            });
            self.hold(lock, |lock| {
                let mut result = Err(Refusal::Busy);
                while let Ok(offered) = offers.recv() {
                    result = match offered {
                        Some(refusal) => Err(refusal),
                        None if is_late => {
                            std::thread::sleep(PATIENCE * 2);
                            lock.acquire_past_gate(2_000_000, &mut || true)
                        }
                        None => lock.try_acquire(),
                    };
                    let in_vain = !is_late && result == Err(Refusal::Busy);
                    // An error: the helper's patience is over, and it is gone.
                    if answer.send(in_vain).is_err() || !in_vain {
                        break;
                    }
                }
                result
            });
        });
    }

    /// Two locks at once, in the order of their ids.
    fn two(&mut self) {
        let first = self.random.usize(..LOCKS - 1);
        let second = self.random.usize(first + 1..LOCKS);
        let wait = |lock: &Lock| lock.acquire(None, &mut || true);
        let Some(outer) = self.take(first, wait) else { return };
        self.page.enter(first, self.me, outer);
        self.hold(second, wait);
        let keep = self.change(first, outer);
        self.page.exit(first, self.me);
        self.leave(first, keep);
    }

    fn allocate(&mut self) {
        let capacity = self.manager.segment().capacity();
        let given = (self.random.u32(..4) == 0).then(|| self.random.u32(..capacity));
        self.phase(Phase::Pool);
        let allocated = match given {
            Some(id) => self.manager.allocate_given(id),
            None => self.manager.allocate(),
        };
        match allocated {
            Ok(handle) => {
                self.page.allocated(handle.id, self.me, given.is_some());
                self.mine.push(handle);
            }
            Err(error) if matches!(error.code, Code::Exhausted | Code::AlreadyAllocated) => {}
            Err(error) => self.page.note(Wrong::Failure, || format!("an allocation says {error}")),
        }
    }

    /// What a dead worker had is this one's now.
    fn take_over(&mut self) {
        let capacity = self.manager.segment().capacity();
        for id in LOCKS as u32..capacity {
            let owner = &self.page.owners[id as usize];
            let dead = owner.load(SeqCst);
            let is_left = dead != 0 && self.page.is_over(Who(dead));
            if is_left && owner.compare_exchange(dead, self.me.0, SeqCst, SeqCst).is_ok() {
                self.mine.push(self.manager.retrieve(id).unwrap());
                if self.mine.len() > 64 {
                    return;
                }
            }
        }
    }

    /// Frees an id, sometimes while its lock is held: then nobody else may get it.
    fn free(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let handle = self.mine.swap_remove(self.random.usize(..self.mine.len()));
        let lock = self.manager.lock(handle.id).unwrap();
        let held = self.random.bool() && self.enter_own(handle.id, &lock);
        self.phase(Phase::Pool);
        self.page.freeing(handle.id, self.me);
        if let Err(error) = self.manager.free(handle) {
            self.page.note(Wrong::LostAllocation, || format!("a free says {error}"));
        }
        self.phase(Phase::Idle);
        if held {
            self.pause();
            self.page.inside[handle.id as usize].store(0, SeqCst);
            if let Err(refusal) = lock.release(false) {
                self.page.note(Wrong::Failure, || format!("a release says {refusal:?}"));
            }
        }
    }

    fn enter_own(&self, id: u32, lock: &Lock) -> bool {
        if self.allowed(lock.try_acquire()).is_none() {
            return false;
        }
        let before = Who(self.page.inside[id as usize].swap(self.me.0, SeqCst));
        if before.0 != 0 && !self.page.is_doomed(before) {
            self.page.note(Wrong::DoubleHold, || format!("{before:?} is in the lock of id {id}"));
        }
        true
    }

    /// What only reads does not disturb.
    fn look(&mut self, lock: usize) {
        let (capacity, available) = (self.manager.segment().capacity(), self.manager.available());
        if available > capacity {
            self.page.note(Wrong::Failure, || format!("{available} of {capacity} are available"));
        }
        std::hint::black_box(self.locks[lock].is_held());
    }
}
