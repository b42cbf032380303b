//! Clocks. Waiting is measured on the monotonic clock; the wall clock only starts fencing tokens.

use core::mem::MaybeUninit;

pub const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

fn read(clock: libc::clockid_t) -> u64 {
    let mut ts = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `ts` is valid for one write of a timespec, and every clock used here exists since
    // Linux 2.6.32; on a failure the zeroes stay.
    let _ = unsafe { libc::clock_gettime(clock, ts.as_mut_ptr()) };
    // SAFETY: a zeroed timespec is a valid value, and the call only ever writes valid ones.
    let ts = unsafe { ts.assume_init() };
    ts.tv_sec as u64 * NS_PER_S + ts.tv_nsec as u64
}

/// Nanoseconds of CLOCK_MONOTONIC: not touched by a step of the wall clock, the same in all
/// processes of a time namespace.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Microseconds since 1970.
pub fn wall_us() -> u64 {
    read(libc::CLOCK_REALTIME) / 1_000
}

/// The absolute time `ns` from now on `clock`, as the timed pthread calls want it. Called right
/// before each wait, because musl turns it into a relative time again when the wait begins.
pub(super) fn deadline(clock: libc::clockid_t, ns: u64) -> libc::timespec {
    let at = read(clock).saturating_add(ns);
    // SAFETY: timespec is plain old data; on some targets it has padding that no literal can name.
    let mut ts: libc::timespec = unsafe { core::mem::zeroed() };
    ts.tv_sec = (at / NS_PER_S) as _;
    ts.tv_nsec = (at % NS_PER_S) as _;
    ts
}
