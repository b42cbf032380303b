//! Damages at random, from a seed: what to write, and where.

use std::ops::Range;

use fastrand::Rng;

use crate::support::{ADMIN_AT, BITMAP_AT, CHUNK_MAP_AT, GATES_AT, SLOTS_AT, slot_at};
use crate::{CHUNK_MAP_END, HINTS_AT, MUTEX};

/// A number that is likelier than others to be handled badly.
fn value(random: &mut Rng) -> [u8; 8] {
    let edges = [0, 1, 1 << 20, (1 << 20) + 1, 1 << 31, u32::MAX.into(), 1 << 53, u64::MAX];
    match random.u32(..4) {
        0 => edges[random.usize(..edges.len())].to_ne_bytes(),
        1 => edges[random.usize(..edges.len())].wrapping_sub(1).to_ne_bytes(),
        2 => (1u64 << random.u32(..64)).to_ne_bytes(),
        _ => random.u64(..).to_ne_bytes(),
    }
}

pub fn noise(random: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.u8(..)).collect()
}

/// Of a thousand damages so many hit the header.
pub const HEADER_KINDS: u32 = 520;
pub const KINDS: u32 = 1_000;

/// What to write, and where. Never a word of the admin mutex that names somebody: a living one would be
/// waited for, for 5 s. (Tests of their own have that.)
pub fn damage(random: &mut Rng, kinds: u32, word_offset: u64) -> (u64, Vec<u8>) {
    let word = ADMIN_AT + word_offset;
    loop {
        let (at, bytes) = any_damage(random, kinds);
        if bytes.len() > 8 || at >= word + 4 || at + bytes.len() as u64 <= word {
            return (at, bytes);
        }
    }
}

fn any_damage(random: &mut Rng, kinds: u32) -> (u64, Vec<u8>) {
    // The fields of a slot: dirty, generation, token, turn, offers, woken, owner's pid, tid, start, since, deaths.
    let fields = [
        (48, 4),
        (52, 4),
        (56, 8),
        (112, 4),
        (116, 4),
        (120, 4),
        (192, 4),
        (196, 4),
        (200, 8),
        (208, 8),
        (216, 4),
    ];
    let mut bytes = value(random).to_vec();
    bytes.truncate([1, 2, 4, 8][random.usize(..4)]);
    let within = |random: &mut Rng, range: Range<u64>| random.u64(range.start..range.end - 8);
    match random.u32(..kinds) {
        0..330 => (within(random, 0..384), bytes),
        330..400 => (random.u64(0..48) * 4, bytes),
        400..430 => (0, noise(random, 4096)),
        430..450 => (within(random, 0..4096), bytes),
        450..500 => (192, bytes),
        500..HEADER_KINDS => (ADMIN_AT, noise(random, MUTEX as usize)),
        HEADER_KINDS..620 => (within(random, BITMAP_AT..BITMAP_AT + 256), bytes),
        620..640 => (BITMAP_AT, noise(random, 4096)),
        640..690 => (within(random, HINTS_AT..CHUNK_MAP_AT), bytes),
        690..710 => (HINTS_AT, noise(random, 2048 + 32)),
        710..760 => (within(random, CHUNK_MAP_AT..CHUNK_MAP_AT + 16), bytes),
        760..770 => (within(random, CHUNK_MAP_AT..CHUNK_MAP_END), bytes),
        770..970 => {
            let (field, len) = fields[random.usize(..fields.len())];
            (slot_at(random.u32(..4)) + field, value(random)[..len].to_vec())
        }
        970..999 => {
            let mutex = [0, GATES_AT[0], GATES_AT[1]][random.usize(..3)];
            (slot_at(random.u32(..4)) + mutex, noise(random, MUTEX as usize))
        }
        // Perhaps a lock word, of somebody who is gone: found out at a slice's end. So, few of them.
        _ => (within(random, SLOTS_AT..SLOTS_AT + 1024), bytes),
    }
}
