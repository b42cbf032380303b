//! Robust locks between processes of one Linux machine, allocated by id out of a shared segment.
//!
//! Layers call downwards only: [`Manager`] → slot and gate, id map, segment → recovery → `sys`.
//! DESIGN.md tells the whole story. What is unsafe stands in `segment`, the mapping, and `sys`, the calls.

// loom replaces the id map's atomics, and a segment cannot be made of loom's.
#[forbid(unsafe_code)]
pub mod idmap;

#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod check;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod error;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod folder;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod gate;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod layout;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod manager;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod open;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod recover;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod slot;
#[cfg(not(loom))]
mod sys;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
mod thread;

#[cfg(not(loom))]
pub use crate::{
    error::{Code, Error, Result},
    folder::private_folder,
    gate::Won,
    layout::{DEFAULT_CAPACITY, MAX_LOCKS},
    manager::{Handle, Manager},
    open::{Mode, OpenOptions},
    segment::Segment,
    slot::{Acquired, Lock, Refusal},
    sys::clock::monotonic_ns,
    sys::proc::block_signals,
    thread::MAX_HELD,
};
