//! The oracles' shared page: anonymous memory that supervisor and workers inherit by fork. Nothing of
//! the library is in it, and it believes nothing that the library says but `ownerDied`.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use robust_lock_core::Acquired;

/// Locks that all fight for; they are the first ids of the segment.
pub const LOCKS: usize = 4;
pub const PLACES: usize = 8;
/// The most ids of a segment here: four chunks.
pub const IDS: usize = 1024;

/// What can go wrong, each with a count of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Two were inside.
    DoubleHold,
    /// A lock is free and its waiters sleep on, or it cannot be had at the end.
    Stuck,
    /// An id is allocated and nobody has it, beyond those whose allocator was killed at it.
    Leaked,
    /// A holder died inside and the next one was not told.
    Unannounced,
    /// Somebody was told of a death that was none.
    FalseAlarm,
    /// An id was handed out twice, or while it was held.
    DoubleAllocation,
    /// An id that is somebody's is free in the bitmap, or its owner may not free it.
    LostAllocation,
    /// A fencing token did not rise.
    Token,
    /// An operation was refused that should not be; a worker ended by itself; a damaged header.
    Failure,
}

pub const WRONGS: [Wrong; 9] = [
    Wrong::DoubleHold,
    Wrong::Stuck,
    Wrong::Leaked,
    Wrong::Unannounced,
    Wrong::FalseAlarm,
    Wrong::DoubleAllocation,
    Wrong::LostAllocation,
    Wrong::Token,
    Wrong::Failure,
];

/// What a worker is at; what a kill may have left behind depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    Opening,
    Idle,
    /// Allocating or freeing: a death may leak the id.
    Pool,
    Locking,
}

pub const PHASES: [Phase; 4] = [Phase::Opening, Phase::Idle, Phase::Pool, Phase::Locking];

/// One incarnation of a worker: its place, and a number that no other one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who(pub u64);

impl Who {
    pub fn new(place: usize, serial: u64) -> Self {
        Self(serial * PLACES as u64 + place as u64)
    }

    pub fn place(self) -> usize {
        (self.0 % PLACES as u64) as usize
    }
}

/// One of the locks that all fight for.
#[repr(C)]
pub struct Record {
    /// Who is inside, set by compare-and-swap; 0 for nobody.
    pub holder: AtomicU64,
    /// A counter twice: a death between the two writes leaves it torn.
    pub left: AtomicU64,
    pub right: AtomicU64,
    pub token: AtomicU64,
    pub acquisitions: AtomicU64,
    /// How often a holder was told of a death.
    pub announced: AtomicU64,
    /// How often one that was told did not declare the data repaired.
    pub unrepaired: AtomicU64,
}

#[repr(C)]
pub struct Place {
    /// The incarnation that lives here, by [`Who`]; 0 once it has been reaped.
    pub who: AtomicU64,
    /// The incarnation that is being killed, or has been.
    pub doomed: AtomicU64,
    pub phase: AtomicU32,
    /// A bit a lock: from before its acquisition until after its release.
    pub at: AtomicU32,
    /// The lock that is waited for, plus one.
    pub waiting: AtomicU32,
}

#[repr(C)]
pub struct Page {
    pub records: [Record; LOCKS],
    pub places: [Place; PLACES],
    /// The ledger: whose each id is.
    pub owners: [AtomicU64; IDS],
    /// Who is inside the lock of an id out of the pool.
    pub inside: [AtomicU64; IDS],
    pub wrong: [AtomicU64; WRONGS.len()],
    pub own_refusals: AtomicU64,
    /// Not 0: whoever is out of all locks stays out.
    pub calm: AtomicU32,
}

impl Page {
    /// Anonymous memory, zeroed: every field is an atomic integer.
    pub fn new() -> &'static Self {
        let len = size_of::<Self>().try_into().unwrap();
        let access = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            nix::sys::mman::mmap_anonymous(None, len, access, nix::sys::mman::MapFlags::MAP_SHARED)
        };
        let at: NonNull<Self> = at.unwrap().cast();
        // SAFETY: as long as the type, page-aligned, zeroes are valid, never unmapped.
        unsafe { at.as_ref() }
    }

    /// For a new segment. The counts of what was wrong stay.
    pub fn forget(&self) {
        for Record { holder, left, right, token, announced, unrepaired, acquisitions } in
            &self.records
        {
            for word in [holder, left, right, token, announced, unrepaired, acquisitions] {
                word.store(0, SeqCst);
            }
        }
        for word in self.owners.iter().chain(&self.inside) {
            word.store(0, SeqCst);
        }
    }

    pub fn note(&self, wrong: Wrong, what: impl FnOnce() -> String) {
        let count = self.wrong[wrong as usize].fetch_add(1, SeqCst);
        if count < 5 {
            eprintln!("** {wrong:?}: {}", what());
        }
    }

    pub fn count(&self, wrong: Wrong) -> u64 {
        self.wrong[wrong as usize].load(SeqCst)
    }

    /// Whether this incarnation has been reaped.
    pub fn is_over(&self, who: Who) -> bool {
        self.places[who.place()].who.load(SeqCst) != who.0
    }

    /// Whether it is gone, or its kill is on the way.
    pub fn is_doomed(&self, who: Who) -> bool {
        self.is_over(who) || self.places[who.place()].doomed.load(SeqCst) == who.0
    }

    pub fn acquisitions(&self) -> u64 {
        self.records.iter().map(|record| record.acquisitions.load(SeqCst)).sum()
    }

    /// The beginning of a critical section.
    pub fn enter(&self, lock: usize, me: Who, acquired: Acquired) {
        let record = &self.records[lock];
        record.acquisitions.fetch_add(1, SeqCst);
        if acquired.owner_died {
            record.announced.fetch_add(1, SeqCst);
        }
        let before = record.holder.compare_exchange(0, me.0, SeqCst, SeqCst);
        let (left, right) = (record.left.load(SeqCst), record.right.load(SeqCst));
        if let Err(other) = before {
            self.judge(lock, me, Who(other), acquired);
            record.holder.store(me.0, SeqCst);
        } else if left != right && !acquired.owner_died {
            self.note(Wrong::Unannounced, || format!("lock {lock} is torn: {left}, {right}"));
        }
        let last = record.token.swap(acquired.token, SeqCst);
        if last >= acquired.token {
            self.note(Wrong::Token, || format!("{} after {last}", acquired.token));
        }
    }

    /// Somebody's name stands in the holder's word. That is as it should be if he is dead and his
    /// death was announced.
    fn judge(&self, lock: usize, me: Who, other: Who, acquired: Acquired) {
        if acquired.owner_died && self.is_doomed(other) {
            return;
        }
        // Is he dead, or does he go on?
        let record = &self.records[lock];
        let begun = Instant::now();
        while !self.is_over(other) && begun.elapsed() < Duration::from_secs(1) {
            if record.holder.load(SeqCst) != other.0 {
                break;
            }
            std::thread::yield_now();
        }
        let wrong = if self.is_over(other) && record.holder.load(SeqCst) == other.0 {
            Wrong::Unannounced
        } else {
            Wrong::DoubleHold
        };
        self.note(wrong, || format!("{me:?} finds {other:?} in lock {lock}: {acquired:?}"));
    }

    /// The update that a death can tear: `pause` falls into its middle.
    pub fn update(&self, lock: usize, pause: impl FnOnce()) {
        let next = self.tear(lock);
        pause();
        self.records[lock].right.store(next, SeqCst);
    }

    /// Its first half.
    pub fn tear(&self, lock: usize) -> u64 {
        let record = &self.records[lock];
        let next = record.left.load(SeqCst).max(record.right.load(SeqCst)) + 1;
        record.left.store(next, SeqCst);
        next
    }

    /// The end of a critical section.
    pub fn exit(&self, lock: usize, me: Who) {
        let holder = &self.records[lock].holder;
        if let Err(other) = holder.compare_exchange(me.0, 0, SeqCst, SeqCst) {
            self.note(Wrong::DoubleHold, || {
                format!("{me:?} leaves lock {lock}, where {:?} is", Who(other))
            });
        }
    }

    /// An id was handed out. Who asked for that very id gets it even while its lock is held.
    pub fn allocated(&self, id: u32, me: Who, given: bool) {
        let owner = &self.owners[id as usize];
        if let Err(other) = owner.compare_exchange(0, me.0, SeqCst, SeqCst) {
            self.note(Wrong::DoubleAllocation, || {
                format!("id {id} is {:?}'s and {me:?}'s", Who(other))
            });
        }
        let inside = Who(self.inside[id as usize].load(SeqCst));
        if !given && inside.0 != 0 && !self.is_doomed(inside) {
            self.note(Wrong::DoubleAllocation, || format!("id {id} is held by {inside:?}"));
        }
    }

    /// An id is about to be freed.
    pub fn freeing(&self, id: u32, me: Who) {
        let owner = &self.owners[id as usize];
        if let Err(other) = owner.compare_exchange(me.0, 0, SeqCst, SeqCst) {
            self.note(Wrong::DoubleAllocation, || {
                format!("{me:?} frees id {id}, which is {:?}'s", Who(other))
            });
        }
    }
}
