//! The long version of the test `kills`: a million kills take about half an hour.
//!
//!     cargo run --release -p robust-lock-core --example kills -- [KILLS]
//!
//! A line of JSON after each thousand; SIGINT or SIGTERM ends it with the next one. Exits non-zero if anything was
//! wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]

#[path = "../tests/kills/storm/mod.rs"]
mod storm;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use storm::page::Page;
use storm::supervisor::{Storm, figures, is_clean};

fn main() {
    let kills = std::env::args().nth(1).map_or(20_000, |kills| kills.parse().unwrap());
    let interrupt = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    interrupt.thread_block().unwrap();
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let interrupts = SignalFd::with_flags(&interrupt, flags).unwrap();
    let page = Page::new();
    let mut storm = Storm::new(page, fastrand::u64(..));
    storm.run(kills, |storm| {
        let figures = figures(page, &storm.tally);
        let named = figures.iter().map(|(name, figure)| format!("\"{name}\": {figure}"));
        println!("{{{}}}", named.collect::<Vec<_>>().join(", "));
        interrupts.read_signal().unwrap().is_none()
    });
    std::process::exit(if is_clean(page) { 0 } else { 1 });
}
