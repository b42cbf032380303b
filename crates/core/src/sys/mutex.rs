//! Robust, process-shared, error-checking pthread mutexes.
//!
//! A mutex is 48 bytes of the segment. Three things that POSIX does not promise are used, all true
//! of glibc and musl, and all verified at run time by [`Platform`]:
//! - a fresh mutex is the byte image that `pthread_mutex_init` writes, with no address in it, so a
//!   copy of the image is a fresh mutex; what is not zero in it stays as it is, locked or not;
//! - a 32-bit lock word inside it names the owner's TID in its low 30 bits, in the format of the
//!   kernel's robust futexes;
//! - the kernel marks that word when the owner dies (a sandbox or an emulator may not).

use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, size_of, transmute};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::OnceLock;

use super::clock;

/// Room for a mutex: 48 bytes on aarch64 glibc, 40 or less elsewhere.
pub const MUTEX_ROOM: usize = 48;
/// The owner's bits of a lock word.
pub const TID_MASK: u32 = 0x3fff_ffff;
/// The bit of a lock word that makes its owner wake somebody.
const WAITERS: u32 = 0x8000_0000;
/// What the kernel leaves in the lock word of a dead owner's mutex that somebody waits for.
const OWNER_DIED_WAITERS: u32 = 0xc000_0000;

const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= MUTEX_ROOM);
const _: () = assert!(align_of::<libc::pthread_mutex_t>() <= 8);

/// A mutex in shared memory.
#[repr(C, align(8))]
pub struct Mutex(UnsafeCell<[u8; MUTEX_ROOM]>);

// SAFETY: all access goes through pthread calls and through the atomic lock word.
unsafe impl Sync for Mutex {}
// SAFETY: as above; a mutex is only ever moved while it is private (the scratch ones below).
unsafe impl Send for Mutex {}

/// What an attempt to lock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Ours. The mutex has been made consistent already if its owner had died.
    Got { owner_died: bool },
    /// Somebody else's, still at the end of the time given.
    Busy,
    /// This thread's own.
    Own,
    /// The mutex is damaged: the errno that the call gave.
    Broken(i32),
}

type ClockLock = unsafe extern "C" fn(
    *mut libc::pthread_mutex_t,
    libc::clockid_t,
    *const libc::timespec,
) -> libc::c_int;

/// What the C library of this process makes of a mutex.
pub struct Platform {
    /// A fresh mutex, byte by byte; zeroes after its size.
    pub image: [u8; MUTEX_ROOM],
    /// Where the lock word stands in it.
    pub word_offset: usize,
    /// `pthread_mutex_clocklock`, where there is one (glibc 2.30 and later).
    clock_lock: Option<ClockLock>,
    usable: bool,
}

impl Platform {
    /// Whether the kernel marks the mutex of a dead thread. Found out with the first call that can
    /// start a thread; an error is that of the start, and is not remembered.
    pub fn is_robust(&self) -> std::io::Result<bool> {
        static ROBUST: OnceLock<bool> = OnceLock::new();
        if let Some(&known) = ROBUST.get() {
            return Ok(known);
        }
        let found = self.usable && dies_robustly(self.image)?;
        Ok(*ROBUST.get_or_init(|| found))
    }

    /// Whether these bytes are those of a mutex of our kind, in whatever state.
    pub fn is_mutex(&self, bytes: &[u8; MUTEX_ROOM]) -> bool {
        kind(&self.image).all(|(at, word)| bytes[at..at + 4] == word.to_ne_bytes())
    }
}

/// Where a mutex says of which kind it is, and what: the words that are not zero in a fresh one. No call
/// changes them. What else stands in a mutex that nobody holds may be anything.
fn kind(image: &[u8; MUTEX_ROOM]) -> impl Iterator<Item = (usize, u32)> {
    let words = image.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word));
    words.enumerate().map(|(i, word)| (i * 4, word)).filter(|&(_, word)| word != 0)
}

/// Probed once per process.
pub fn platform() -> &'static Platform {
    static PLATFORM: OnceLock<Platform> = OnceLock::new();
    PLATFORM.get_or_init(probe)
}

impl Mutex {
    /// A mutex of its own, outside of any segment.
    fn scratch(image: [u8; MUTEX_ROOM]) -> Self {
        Self(UnsafeCell::new(image))
    }

    fn raw(&self) -> *mut libc::pthread_mutex_t {
        self.0.get().cast()
    }

    /// Makes it a fresh, unlocked mutex, in two steps: whoever dies in the middle leaves something that
    /// is not of our kind, never half a mutex that is.
    ///
    /// # Safety
    /// Nobody may be using it: neither hold it nor wait for it.
    pub unsafe fn make_fresh(&self) {
        for image in [[0; MUTEX_ROOM], platform().image] {
            // SAFETY: the caller vouches that nobody else touches these bytes now.
            unsafe { self.0.get().write(image) };
            fence(Ordering::Release);
        }
    }

    /// Whether it is a mutex of our kind. With another one the C library may do anything: glibc aborts.
    pub fn is_whole(&self) -> bool {
        self.is_of(&platform().image)
    }

    fn is_of(&self, image: &[u8; MUTEX_ROOM]) -> bool {
        kind(image).all(|(at, word)| self.word_at(at).load(Ordering::Relaxed) == word)
    }

    /// The lock word: `TID | WAITERS | OWNER_DIED`, 0 when free.
    pub fn word(&self) -> &AtomicU32 {
        self.word_at(platform().word_offset)
    }

    fn word_at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the offset was probed to be a multiple of 4 within the mutex.
        let word = unsafe { self.0.get().cast::<u8>().add(offset) };
        // SAFETY: aligned (the mutex is to 8, the offset to 4), inside the mutex, and changed by
        // everybody, the kernel included, with atomic instructions only.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// The TID of the thread that holds it, as the lock word says; 0 when it is free.
    pub fn owner(&self) -> u32 {
        self.word().load(Ordering::Acquire) & TID_MASK
    }

    /// Whether somebody sleeps at it, as its holder sees it in the lock word. It may say yes for nobody: with glibc
    /// to who has slept for it himself, until he has released it once; with musl for good, once a thread was killed that
    /// slept at it.
    pub fn is_awaited(&self) -> bool {
        self.word().load(Ordering::Relaxed) & WAITERS != 0
    }

    /// pthread_mutex_trylock(3).
    pub fn try_lock(&self) -> Lock {
        // SAFETY: an initialised mutex in memory that is never unmapped.
        let result = unsafe { libc::pthread_mutex_trylock(self.raw()) };
        self.settle(result)
    }

    /// pthread_mutex_clocklock(3) on the monotonic clock, or pthread_mutex_timedlock(3) where the C
    /// library has none: there a step of the wall clock can stretch or cut this one wait.
    pub fn lock_for(&self, ns: u64) -> Lock {
        let result = match platform().clock_lock {
            Some(clock_lock) => {
                let until = clock::deadline(libc::CLOCK_MONOTONIC, ns);
                // SAFETY: the function of that name with its documented signature; the mutex is
                // initialised and never unmapped.
                unsafe { clock_lock(self.raw(), libc::CLOCK_MONOTONIC, &until) }
            }
            None => {
                let until = clock::deadline(libc::CLOCK_REALTIME, ns);
                // SAFETY: an initialised mutex in memory that is never unmapped.
                unsafe { libc::pthread_mutex_timedlock(self.raw(), &until) }
            }
        };
        self.settle(result)
    }

    fn settle(&self, result: libc::c_int) -> Lock {
        match result {
            0 => Lock::Got { owner_died: false },
            libc::EOWNERDEAD => {
                // Always: a mutex that is released without it could never be locked again.
                // SAFETY: this thread has just got the mutex with EOWNERDEAD.
                match unsafe { libc::pthread_mutex_consistent(self.raw()) } {
                    0 => Lock::Got { owner_died: true },
                    errno => Lock::Broken(errno),
                }
            }
            libc::EDEADLK => Lock::Own,
            // musl's trylock says EBUSY to the owner too.
            libc::EBUSY if self.owner() == gettid() => Lock::Own,
            libc::EBUSY | libc::ETIMEDOUT => Lock::Busy,
            errno => Lock::Broken(errno),
        }
    }

    /// pthread_mutex_unlock(3): false if this thread does not hold it.
    pub fn unlock(&self) -> bool {
        // SAFETY: an initialised mutex; the error-checking kind refuses anybody but its owner.
        unsafe { libc::pthread_mutex_unlock(self.raw()) == 0 }
    }

    /// Gives a mutex back whose owner is gone although its lock word names it still, exactly as the
    /// kernel does it when a thread dies: the word becomes `OWNER_DIED | WAITERS`, one waiter is
    /// woken. False if the word is not `seen` any more.
    pub fn bequeath(&self, seen: u32) -> bool {
        let word = self.word();
        let swapped = word
            .compare_exchange(seen, OWNER_DIED_WAITERS, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if swapped {
            // SAFETY: FUTEX_WAKE reads no memory: it takes the address of the word as a key.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
        }
        swapped
    }
}

/// The calling thread's id, remembered per thread.
pub fn gettid() -> u32 {
    thread_local!(static TID: Cell<u32> = const { Cell::new(0) });
    TID.with(|tid| {
        if tid.get() == 0 {
            // SAFETY: no arguments, no preconditions.
            tid.set(unsafe { libc::syscall(libc::SYS_gettid) } as u32);
        }
        tid.get()
    })
}

static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether this process is a copy made by fork(2) after the library was first used: such a copy
/// owns nothing, and its thread has a TID that the C library does not expect.
pub fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

fn initialised() -> Option<[u8; MUTEX_ROOM]> {
    let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::zeroed();
    let image = Mutex::scratch([0; MUTEX_ROOM]);
    // SAFETY: `attr` is writable and not initialised yet.
    let mut failed = unsafe { libc::pthread_mutexattr_init(attr.as_mut_ptr()) };
    // SAFETY: an initialised attribute object.
    failed |=
        unsafe { libc::pthread_mutexattr_setrobust(attr.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) };
    // SAFETY: an initialised attribute object.
    failed |= unsafe {
        libc::pthread_mutexattr_setpshared(attr.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED)
    };
    // SAFETY: an initialised attribute object.
    failed |= unsafe {
        libc::pthread_mutexattr_settype(attr.as_mut_ptr(), libc::PTHREAD_MUTEX_ERRORCHECK)
    };
    // SAFETY: zeroed room of sufficient size and alignment, and an initialised attribute object.
    failed |= unsafe { libc::pthread_mutex_init(image.raw(), attr.as_ptr()) };
    // SAFETY: an initialised attribute object that is not used again.
    unsafe { libc::pthread_mutexattr_destroy(attr.as_mut_ptr()) };
    (failed == 0).then(|| image.0.into_inner())
}

/// The first word that names the owner while a mutex is held (glibc keeps a second one behind it).
fn find_word(image: [u8; MUTEX_ROOM]) -> Option<usize> {
    let scratch = Mutex::scratch(image);
    // SAFETY: an initialised mutex that nobody else knows.
    if unsafe { libc::pthread_mutex_lock(scratch.raw()) } != 0 {
        return None;
    }
    let found = (0..MUTEX_ROOM)
        .step_by(4)
        .find(|&offset| scratch.word_at(offset).load(Ordering::Relaxed) == gettid());
    let keeps_its_kind = scratch.is_of(&image);
    scratch.unlock();
    found.filter(|&offset| keeps_its_kind && scratch.word_at(offset).load(Ordering::Relaxed) == 0)
}

/// get_robust_list(2): whether the kernel knows where to look for the mutexes of this thread.
fn is_listed() -> bool {
    let mut list: *mut libc::c_void = core::ptr::null_mut();
    let mut bytes: libc::size_t = 0;
    // SAFETY: 0 is the calling thread; both addresses are valid for one write of their type.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &mut list, &mut bytes) };
    result == 0 && !list.is_null()
}

/// Lets a thread die with a mutex in its hands. A probe in a child process would not do: the fork
/// hurts programs with threads, and an emulator could treat the two deaths differently. musl marks
/// the mutexes of a thread that returns by itself, as if it were the kernel, and does not look at
/// what the kernel said to its list; so there the kernel is asked, too.
fn dies_robustly(image: [u8; MUTEX_ROOM]) -> std::io::Result<bool> {
    let orphan = std::sync::Arc::new(Mutex::scratch(image));
    let left = std::sync::Arc::clone(&orphan);
    let died = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        // SAFETY: an initialised mutex; the Arc keeps it alive past the end of this thread.
        let locked = unsafe { libc::pthread_mutex_lock(left.raw()) == 0 };
        locked && (cfg!(not(target_env = "musl")) || is_listed())
    });
    let locked = died?.join().unwrap_or(false);
    // SAFETY: an initialised mutex.
    let after = unsafe { libc::pthread_mutex_trylock(orphan.raw()) };
    let told = after == libc::EOWNERDEAD && {
        // SAFETY: this thread has just got it with EOWNERDEAD.
        unsafe { libc::pthread_mutex_consistent(orphan.raw()) == 0 }
    };
    // Whatever has come of it, not left in this thread's list: the memory is about to go.
    orphan.unlock();
    Ok(locked && told)
}

fn probe() -> Platform {
    extern "C" fn mark_copy() {
        FORKED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler does nothing but an atomic store, which is async-signal-safe.
    unsafe { libc::pthread_atfork(None, None, Some(mark_copy)) };
    // SAFETY: a NUL-terminated name and a pseudo handle that dlsym(3) documents.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_mutex_clocklock".as_ptr()) };
    let clock_lock = (!found.is_null()).then(|| {
        // SAFETY: glibc documents this signature for the function of this name; musl has none.
        unsafe { transmute::<*mut libc::c_void, ClockLock>(found) }
    });
    let image = initialised();
    let word = image.and_then(find_word);
    Platform {
        image: image.unwrap_or([0; MUTEX_ROOM]),
        word_offset: word.unwrap_or(0),
        clock_lock,
        usable: word.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_threads_mutex_is_given_to_the_next() {
        let mutex = std::sync::Arc::new(Mutex::scratch(platform().image));
        let left = std::sync::Arc::clone(&mutex);
        std::thread::spawn(move || assert_eq!(left.try_lock(), Lock::Got { owner_died: false }))
            .join()
            .unwrap();
        assert_eq!(mutex.try_lock(), Lock::Got { owner_died: true });
        assert_eq!(mutex.try_lock(), Lock::Own);
        assert!(mutex.unlock());
        assert!(!mutex.unlock());
        assert_eq!(mutex.lock_for(1), Lock::Got { owner_died: false });
        assert_eq!(mutex.owner(), gettid());
        // Not left in this thread's robust list: the memory is about to go.
        assert!(mutex.unlock());
    }

    #[test]
    fn a_wait_ends_in_time() {
        let mutex = std::sync::Arc::new(Mutex::scratch(platform().image));
        assert_eq!(mutex.try_lock(), Lock::Got { owner_died: false });
        let shared = std::sync::Arc::clone(&mutex);
        let waited = std::thread::spawn(move || shared.lock_for(5 * clock::NS_PER_MS));
        assert_eq!(waited.join().unwrap(), Lock::Busy);
        mutex.unlock();
    }
}
