//! A mapped segment: where things are, which chunks exist, and the mutex of those who commit one.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex as ProcessMutex;

use crate::error::{Code, Error, Result};
use crate::idmap::IdMap;
use crate::layout::{
    BITMAP_AT, BITMAP_WORDS, CHUNK_BYTES, CHUNK_LOCKS, CHUNK_MAP_AT, CHUNK_MAP_WORDS, DELETE_IT,
    HINT_WORDS, HINTS_AT, Header, MAPPED_BYTES, MAX_LOCKS, SLOTS_AT, Slot, TOP_AT, TOP_WORDS,
};
use crate::recover::{self, Effort};
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::mutex::{self, Lock, Mutex};
use crate::sys::{file, proc};

/// How long the admin mutex is waited for before somebody is told who sits on it.
const ADMIN_PATIENCE_NS: u64 = 5_000 * NS_PER_MS;
const ADMIN_SLICE_NS: u64 = 100 * NS_PER_MS;

/// One per file and process, and for as long as the process lives: the descriptor carries the shared
/// flock, and the mapping must not go while any thread may hold a mutex in it.
pub struct Segment {
    base: NonNull<u8>,
    pub(crate) file: File,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    path: PathBuf,
    created_us: u64,
    stale: AtomicBool,
    /// A lock whose owner seems to be lost: 0, or its id and the TID in its word.
    suspicion: AtomicU64,
    /// The chunks that this process has found to be there, and whole: see [`Segment::check_chunk`].
    seen: [AtomicU64; CHUNK_MAP_WORDS],
    /// Serialises recoveries in this process, as the recovery byte does between processes.
    pub(crate) recovering: ProcessMutex<()>,
    /// When /proc/PID/maps was last read for a tryLock.
    pub(crate) maps_read_ns: AtomicU64,
    /// This process, as it is written into the slots that it holds.
    pub(crate) own_pid: u32,
    pub(crate) own_start: u64,
}

// SAFETY: `base` points to a mapping that is never unmapped and is only accessed through atomics and
// mutexes; the other fields are Sync themselves.
unsafe impl Sync for Segment {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Segment {}

impl Segment {
    /// Maps a file whose header has been validated and which the caller has a shared flock on.
    pub(crate) fn map(file: File, path: &Path, created_us: u64) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Error::from_os(&e, "fstat", "open the segment"))?;
        let base = file::map(&file, MAPPED_BYTES).map_err(|error| {
            let mut refusal = Error::from_os(&error, "mmap", "map the segment");
            refusal.code = Code::NoMemory;
            refusal
        })?;
        Ok(Self {
            base,
            file,
            dev: meta.dev(),
            ino: meta.ino(),
            path: path.to_owned(),
            created_us,
            stale: AtomicBool::new(false),
            suspicion: AtomicU64::new(0),
            seen: [const { AtomicU64::new(0) }; CHUNK_MAP_WORDS],
            recovering: ProcessMutex::new(()),
            maps_read_ns: AtomicU64::new(0),
            own_pid: std::process::id(),
            own_start: proc::own_start(),
        })
    }

    /// Unmaps a segment that was never linked.
    pub(crate) fn discard(self) {
        // SAFETY: nobody else has ever seen it, no reference into it is left (`self` is taken), and
        // no mutex in it was ever locked.
        unsafe { file::unmap(self.base, MAPPED_BYTES) };
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the mapping begins with a header, is page-aligned, and lives for ever; what changes
        // in it is atomic.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    fn words(&self, at: usize, len: usize) -> &[AtomicU64] {
        debug_assert!(at.is_multiple_of(8) && at + len * 8 <= SLOTS_AT);
        // SAFETY: within the committed first part of the mapping.
        let first = unsafe { self.base.add(at) };
        // SAFETY: aligned to 8, committed at creation, never unmapped, only accessed atomically.
        unsafe { core::slice::from_raw_parts(first.as_ptr().cast(), len) }
    }

    pub(crate) fn ids(&self) -> IdMap<'_> {
        IdMap::new(
            self.words(BITMAP_AT, BITMAP_WORDS),
            self.words(HINTS_AT, HINT_WORDS),
            self.words(TOP_AT, TOP_WORDS),
        )
    }

    /// How many locks can be allocated: a quota that only grows.
    pub fn capacity(&self) -> u32 {
        self.header().capacity.load(Ordering::Relaxed).min(MAX_LOCKS)
    }

    pub(crate) fn grow(&self, capacity: u32) {
        self.header().capacity.fetch_max(capacity, Ordering::Relaxed);
    }

    fn chunk_bit(&self, chunk: u32) -> (&AtomicU64, u64) {
        let map = self.words(CHUNK_MAP_AT, CHUNK_MAP_WORDS);
        (&map[chunk as usize / 64], 1 << (chunk % 64))
    }

    fn is_published(&self, chunk: u32) -> bool {
        let (word, bit) = self.chunk_bit(chunk);
        word.load(Ordering::Acquire) & bit != 0
    }

    /// Whether the chunk is there: a touch of any other is a new page, or SIGBUS.
    pub(crate) fn has_chunk(&self, chunk: u32) -> bool {
        let seen = self.seen[chunk as usize / 64].load(Ordering::Acquire);
        seen & (1 << (chunk % 64)) != 0
            || (self.is_published(chunk) && self.check_chunk(chunk).is_ok())
    }

    /// This process's first look at a published chunk. The map may be damaged, and name one that is not
    /// there or whose mutexes are none; so its word is believed once, after this, and not asked again.
    #[cold]
    fn check_chunk(&self, chunk: u32) -> Result<()> {
        let first = chunk * CHUNK_LOCKS;
        let is_whole = |id| {
            // SAFETY: its pages are there: that has been looked at first.
            let slot = unsafe { self.slot_unchecked(id).as_ref() };
            slot.mutexes().into_iter().all(Mutex::is_whole)
        };
        if !file::is_written(&self.file, chunk_at(chunk), CHUNK_BYTES)
            || !(first..first + CHUNK_LOCKS).all(is_whole)
        {
            let (last, path) = (first + CHUNK_LOCKS - 1, self.path.display());
            let message = format!("the locks {first} to {last} of {path} are damaged; {DELETE_IT}");
            return Err(Error::new(Code::Corrupt, message));
        }
        self.seen[chunk as usize / 64].fetch_or(1 << (chunk % 64), Ordering::Release);
        Ok(())
    }

    /// The slot, if its chunk is there.
    pub(crate) fn slot(&self, id: u32) -> Option<&Slot> {
        // SAFETY: the chunk has been seen: its pages are there and its mutexes are initialised.
        (id < MAX_LOCKS && self.has_chunk(id / CHUNK_LOCKS))
            .then(|| unsafe { self.slot_unchecked(id).as_ref() })
    }

    fn slot_unchecked(&self, id: u32) -> NonNull<Slot> {
        debug_assert!(id < MAX_LOCKS);
        // SAFETY: the mapping has room for MAX_LOCKS slots behind SLOTS_AT, and `id` is below.
        unsafe { self.base.add(SLOTS_AT + id as usize * size_of::<Slot>()) }.cast()
    }

    /// The slot, whose chunk is committed first if need be.
    pub(crate) fn commit(&self, id: u32) -> Result<&Slot> {
        if let Some(slot) = self.slot(id) {
            return Ok(slot);
        }
        if id >= MAX_LOCKS {
            return Err(Error::new(Code::OutOfRange, format!("no segment has a lock {id}")));
        }
        self.commit_chunk(id / CHUNK_LOCKS)?;
        // SAFETY: the chunk has just been seen.
        Ok(unsafe { self.slot_unchecked(id).as_ref() })
    }

    /// Reserves a chunk's pages, initialises its slots, and only then publishes it. Whoever dies in
    /// the middle leaves an unpublished chunk, which the next one does again from the start.
    #[cold]
    fn commit_chunk(&self, chunk: u32) -> Result<()> {
        let _admin = self.lock_admin()?;
        if self.is_published(chunk) {
            return self.check_chunk(chunk);
        }
        self.check_descriptor()?;
        file::reserve(&self.file, chunk_at(chunk), CHUNK_BYTES)
            .map_err(|e| Error::from_os(&e, "fallocate", "commit room for 256 more locks"))?;
        for id in chunk * CHUNK_LOCKS..(chunk + 1) * CHUNK_LOCKS {
            // SAFETY: its pages have just been reserved, and nobody touches an unpublished slot but
            // the holder of the admin mutex.
            let slot = unsafe { self.slot_unchecked(id).as_ref() };
            for mutex in slot.mutexes() {
                // One that is made already is as it should be. If the map has lost this chunk's bit, it
                // may even be held, and its holder's list runs through it.
                if !mutex.is_whole() {
                    // SAFETY: unpublished, and never a mutex: nobody can hold it or wait for it.
                    unsafe { mutex.make_fresh() };
                }
            }
            slot.dirty.store(0, Ordering::Relaxed);
            slot.generation.store(0, Ordering::Relaxed);
            slot.turn.store(0, Ordering::Relaxed);
            slot.token.store(self.created_us, Ordering::Relaxed);
        }
        let (word, bit) = self.chunk_bit(chunk);
        word.fetch_or(bit, Ordering::Release);
        self.check_chunk(chunk)
    }

    /// A program that closes descriptors that are not its own may have given our number to another file,
    /// which must not get our pages.
    fn check_descriptor(&self) -> Result<()> {
        if self.file.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.dev, self.ino)) {
            return Ok(());
        }
        let message = format!(
            "this process has closed the descriptor of {}, which the library keeps open: it can \
             use the locks it has used before, and add none",
            self.path.display()
        );
        Err(Error::new(Code::Corrupt, message))
    }

    fn lock_admin(&self) -> Result<Admin<'_>> {
        let admin = &self.header().admin;
        let since = clock::monotonic_ns();
        loop {
            match admin.lock_for(ADMIN_SLICE_NS) {
                Lock::Got { .. } => return Ok(Admin(self)),
                Lock::Busy => {
                    recover::recover(self, admin, Effort::Full);
                }
                // This very thread, through another copy of the library, in the middle of a commit:
                // there is no way to get here, and no way to go on.
                Lock::Own => return Err(Error::new(Code::Stalled, "the admin mutex is our own")),
                Lock::Broken(errno) => {
                    let mut refusal = Error::new(
                        Code::Corrupt,
                        "the segment's admin mutex is damaged: end all that use it and delete it",
                    );
                    refusal.os = Some((errno, "pthread_mutex_timedlock"));
                    return Err(refusal);
                }
            }
            if clock::monotonic_ns() - since > ADMIN_PATIENCE_NS {
                let message = format!(
                    "thread {} has been adding locks to {} for 5 s: is it stopped? Continue it \
                     (SIGCONT) or end it",
                    admin.owner(),
                    self.path.display()
                );
                return Err(Error::new(Code::Stalled, message));
            }
        }
    }

    pub(crate) fn is_known_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    pub(crate) fn suspect(&self, slot: &Slot, tid: u32) {
        let at = core::ptr::from_ref(slot).addr() - self.base.addr().get() - SLOTS_AT;
        let id = (at / size_of::<Slot>()) as u64;
        self.suspicion.store(id << 32 | u64::from(tid), Ordering::Relaxed);
    }

    /// A lock, and the thread that its word names although another one seems to have taken it, which is
    /// gone: seen by a wait of this process, and left alone for want of a proof.
    pub fn suspicion(&self) -> Option<(u32, u32)> {
        let seen = self.suspicion.load(Ordering::Relaxed);
        (seen != 0).then_some(((seen >> 32) as u32, seen as u32))
    }

    /// Whether the file has lost its name: processes that start now make another segment, and do not
    /// exclude those that have this one. Looks each time until it is so.
    pub fn is_stale(&self) -> bool {
        if self.is_known_stale() {
            return true;
        }
        let stale =
            self.file.metadata().is_ok_and(|meta| meta.nlink() == 0 && meta.ino() == self.ino);
        if stale {
            self.stale.store(true, Ordering::Relaxed);
        }
        stale
    }
}

fn chunk_at(chunk: u32) -> u64 {
    SLOTS_AT as u64 + u64::from(chunk) * CHUNK_BYTES
}

/// The admin mutex, held.
struct Admin<'a>(&'a Segment);

impl Drop for Admin<'_> {
    fn drop(&mut self) {
        self.0.header().admin.unlock();
    }
}

/// Every public operation begins with it: a copy made by fork(2) has no business here.
pub(crate) fn check_not_forked() -> Result<()> {
    if !mutex::forked() {
        return Ok(());
    }
    let message = "this process was forked from one that had robust-lock loaded; exec first";
    Err(Error::new(Code::Forked, message))
}
