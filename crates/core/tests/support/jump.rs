//! A way to the middle of a long operation: a breakpoint instead of thousands of single steps.
//!
//! Where the steps of an operation are is noted in a first run. A later victim, forked from the same
//! process and so with the same addresses, runs up to a place close before the wanted step, and is
//! stepped from there. It is a short cut: where there is none (another processor than x86-64), all
//! steps are made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;

use nix::unistd::Pid;

use crate::victim::End;

/// How far back a place is looked for.
const REACH: usize = 2_000;

/// The address of the next instruction at the mark and after each step, and how often it has come by so
/// far.
#[derive(Default)]
pub struct Trace {
    places: Vec<(u64, u64)>,
    counts: HashMap<u64, u64>,
}

/// An instruction, and at which of its turns the stepping begins.
pub struct Place {
    pub step: u64,
    address: u64,
    turns: u64,
}

impl Trace {
    pub fn note(&mut self, pid: u32) {
        if let Some(address) = arch::address(Pid::from_raw(pid as i32)) {
            let count = self.counts.entry(address).or_insert(0);
            *count += 1;
            self.places.push((address, *count));
        }
    }

    /// The steps whose instructions come by once or twice.
    pub fn rare(&self) -> Vec<u64> {
        let addresses = self.places.iter().map(|(address, _)| address);
        let rare = |&(_, address): &(u64, &u64)| self.counts[address] <= 2;
        (0..).zip(addresses).filter(rare).map(|(step, _)| step).collect()
    }

    /// From where `step` is reached with the least trouble; None if from the beginning.
    pub fn before(&self, step: u64) -> Option<Place> {
        let last = (step as usize).min(self.places.len().checked_sub(1)?);
        let place = |made: usize| {
            let (address, turns) = self.places[made];
            Place { step: made as u64, address, turns }
        };
        // A turn is a stop and a step.
        let trouble = |place: &Place| 2 * place.turns + (step - place.step);
        let best = (last.saturating_sub(REACH)..=last).map(place).min_by_key(trouble)?;
        (trouble(&best) < step).then_some(best)
    }
}

impl Place {
    /// Lets a victim run there from its mark; or says how it ended before.
    pub fn reach(&self, pid: Pid) -> Option<End> {
        arch::run_to(pid, self.address, self.turns)
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    use crate::victim::{End, Stop, wait};

    pub fn address(pid: Pid) -> Option<u64> {
        Some(ptrace::getregs(pid).unwrap().rip)
    }

    /// int3.
    const BREAKPOINT: i64 = 0xcc;

    pub fn run_to(pid: Pid, address: u64, turns: u64) -> Option<End> {
        let at = address as ptrace::AddressType;
        let code = ptrace::read(pid, at).unwrap();
        for turn in 1..=turns {
            ptrace::write(pid, at, code & !0xff | BREAKPOINT).unwrap();
            ptrace::cont(pid, None).unwrap();
            if let Stop::End(end) = wait(pid) {
                // It has gone another way. It may go on from its mark, and must not come by the breakpoint.
                if end == End::Mark {
                    ptrace::write(pid, at, code).unwrap();
                }
                return Some(end);
            }
            let mut registers = ptrace::getregs(pid).unwrap();
            assert_eq!(registers.rip, address + 1, "stopped elsewhere");
            registers.rip = address;
            ptrace::setregs(pid, registers).unwrap();
            ptrace::write(pid, at, code).unwrap();
            if turn < turns {
                ptrace::step(pid, None).unwrap();
                if let Stop::End(end) = wait(pid) {
                    return Some(end);
                }
            }
        }
        None
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use nix::unistd::Pid;

    use crate::victim::End;

    pub fn address(_: Pid) -> Option<u64> {
        None
    }

    pub fn run_to(_: Pid, _: u64, _: u64) -> Option<End> {
        None
    }
}
