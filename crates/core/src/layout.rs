//! The segment, byte by byte. Everything that two processes must agree on stands here; a change of
//! any of it is a new [`LAYOUT_VERSION`]. DESIGN.md draws the picture.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::error::{Code, Error, Result};
use crate::sys::mutex::{MUTEX_ROOM, Mutex, Platform};
use crate::sys::proc::World;

/// Checked exactly: two versions never share a segment, and never have one each under one name.
pub const LAYOUT_VERSION: u32 = 1;
/// Features that a reader must know to be safe, as in ext4: an unknown bit is a refusal.
const INCOMPAT_KNOWN: u32 = 0;

/// The most locks of a segment.
pub const MAX_LOCKS: u32 = 1 << 20;
/// What a segment is created for if nobody says.
pub const DEFAULT_CAPACITY: u32 = 2048;
/// Slots come in chunks of 64 KiB: a multiple of every page size in use (4, 16, 64 KiB).
pub const CHUNK_LOCKS: u32 = 256;
pub const CHUNK_BYTES: u64 = CHUNK_LOCKS as u64 * size_of::<Slot>() as u64;
pub const CHUNKS: u32 = MAX_LOCKS / CHUNK_LOCKS;

pub const HEADER_BYTES: usize = 4096;
/// One bit a lock: allocated.
pub const BITMAP_AT: usize = HEADER_BYTES;
pub const BITMAP_WORDS: usize = MAX_LOCKS as usize / 64;
/// One bit a bitmap word: probably full. Then one bit a word of those.
pub const HINTS_AT: usize = BITMAP_AT + BITMAP_WORDS * 8;
pub const HINT_WORDS: usize = BITMAP_WORDS / 64;
pub const TOP_AT: usize = HINTS_AT + HINT_WORDS * 8;
pub const TOP_WORDS: usize = HINT_WORDS / 64;
/// One bit a chunk: committed and initialised.
pub const CHUNK_MAP_AT: usize = (TOP_AT + TOP_WORDS * 8).next_multiple_of(64);
pub const CHUNK_MAP_WORDS: usize = CHUNKS as usize / 64;
/// What is committed when a segment is created; behind it the file is sparse.
pub const EAGER_BYTES: u64 = (CHUNK_MAP_AT + CHUNK_MAP_WORDS * 8) as u64;
pub const SLOTS_AT: usize = (EAGER_BYTES as usize).next_multiple_of(CHUNK_BYTES as usize);
/// What is mapped.
pub const MAPPED_BYTES: usize = SLOTS_AT + MAX_LOCKS as usize * size_of::<Slot>();
/// Kept for later, never mapped or committed today: names (64 bytes a lock), their index, waiters.
const RESERVED_BYTES: u64 = (64 << 20) + (16 << 20) + (16 << 20);
pub const FILE_BYTES: u64 = MAPPED_BYTES as u64 + RESERVED_BYTES;

// On 32 bits an offset in a file is a signed word.
const _: () = assert!(FILE_BYTES <= i32::MAX as u64);

const MAGIC: [u8; 8] = *b"rbstlock";
const ENDIAN_MARK: u32 = 0x0a0b_0c0d;

/// The head of the file, as it lies there. Its first part never changes after the creation, the
/// stamps only under an exclusive flock; `capacity`, `admin` and the recovery byte are shared.
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    endian: u32,
    layout: u32,
    incompat: u32,
    compat: u32,
    pointer_bits: u32,
    mutex_bytes: u32,
    word_offset: u32,
    slot_bytes: u32,
    max_locks: u32,
    chunk_locks: u32,
    file_bytes: u64,
    created_us: u64,
    image: [u8; MUTEX_ROOM],
    _pad: [u8; 16],
    stamps: [u8; STAMP_BYTES],
    _line2: [u8; 32],
    pub capacity: AtomicU32,
    _line3: [u8; 60],
    /// Taken to commit a chunk, by nobody else.
    pub admin: Mutex,
    _line4: [u8; 16],
    /// No content: the byte that a recovery locks with F_OFD_SETLK.
    pub recovery: [u8; 64],
    _rest: [u8; HEADER_BYTES - 384],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(STAMPS_AT == 128 && CAPACITY_AT == 192 && ADMIN_AT == 256);

pub const STAMPS_AT: usize = offset_of!(Header, stamps);
pub const STAMP_BYTES: usize = 32;
pub const CAPACITY_AT: usize = offset_of!(Header, capacity);
pub const ADMIN_AT: usize = offset_of!(Header, admin);
pub const RECOVERY_AT: u64 = offset_of!(Header, recovery) as u64;
const CREATED_AT: usize = offset_of!(Header, created_us);

/// One lock. Four cache lines, so that those who wait at a gate do not slow the holder down.
#[repr(C, align(256))]
pub struct Slot {
    /// Excludes. Owned by the thread whose guard is out.
    pub main: Mutex,
    /// 0, or [`DIRTY`] with the low bits of `generation`: somebody is, or died, inside.
    pub dirty: AtomicU32,
    /// How often the id has been allocated.
    pub generation: AtomicU32,
    /// The last fencing token given out.
    pub token: AtomicU64,
    /// Line 1. Those who wait stand at the gate that `turn` names.
    pub gate_a: Mutex,
    /// `turn % 3`: 0 gate a serves, 1 gate b, 2 none. Only ever advanced.
    pub turn: AtomicU32,
    /// How often a helper has offered main to its thread; written by main's owner.
    pub offers: AtomicU32,
    /// 1: the gate was opened while somebody slept at it, as its lock word said (so it may be nobody), and nobody has had
    /// it since. Advice: with it a turn ends in time, and who comes to the gate lets the woken one go first.
    pub woken: AtomicU32,
    _line1: [u8; 4],
    /// Line 2.
    pub gate_b: Mutex,
    _line2: [u8; 16],
    /// Line 3: who holds it, written after acquiring. Advice: `suspect` warns by it, who comes straight back looks at
    /// it, and nothing that excludes relies on it.
    pub owner_pid: AtomicU32,
    pub owner_tid: AtomicU32,
    pub owner_start: AtomicU64,
    /// CLOCK_MONOTONIC, in ns: when the last turn began. Who found nobody at the gate does not write it.
    pub turn_began: AtomicU64,
    pub deaths: AtomicU32,
    _line3: [u8; 36],
}

impl Slot {
    pub fn mutexes(&self) -> [&Mutex; 3] {
        [&self.main, &self.gate_a, &self.gate_b]
    }
}

/// The bit of `dirty` that says yes; the other 31 are the generation's.
pub const DIRTY: u32 = 1 << 31;

const _: () = assert!(size_of::<Slot>() == 256);
const _: () = assert!(offset_of!(Slot, token) == 56);
const _: () = assert!(MAIN_AT == 0 && GATE_A_AT == 64 && GATE_B_AT == 128);
const _: () = assert!(offset_of!(Slot, owner_pid) == 192);

pub const MAIN_AT: usize = offset_of!(Slot, main);
pub const GATE_A_AT: usize = offset_of!(Slot, gate_a);
pub const GATE_B_AT: usize = offset_of!(Slot, gate_b);

/// The header of a new segment, with our stamps.
pub fn new_header(
    platform: &Platform,
    world: &World,
    time_ns: u64,
    created_us: u64,
    capacity: u32,
) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for field in fixed_fields(platform) {
        bytes[field.at..field.at + field.value.len()].copy_from_slice(&field.value);
    }
    bytes[CREATED_AT..CREATED_AT + 8].copy_from_slice(&created_us.to_ne_bytes());
    bytes[STAMPS_AT..STAMPS_AT + STAMP_BYTES].copy_from_slice(&stamps(world, time_ns));
    bytes[CAPACITY_AT..CAPACITY_AT + 4].copy_from_slice(&capacity.to_ne_bytes());
    bytes[ADMIN_AT..ADMIN_AT + MUTEX_ROOM].copy_from_slice(&platform.image);
    bytes
}

/// The stamps that say in which world the TIDs of the mutexes mean something.
pub fn stamps(world: &World, time_ns: u64) -> [u8; STAMP_BYTES] {
    let mut bytes = [0; STAMP_BYTES];
    bytes[..8].copy_from_slice(&world.pid_ns.to_ne_bytes());
    bytes[8..16].copy_from_slice(&time_ns.to_ne_bytes());
    bytes[16..].copy_from_slice(&world.boot_id);
    bytes
}

/// The world that a header's stamps name; zeroes while an adoption is under way.
pub fn stamped_world(stamps: &[u8; STAMP_BYTES]) -> World {
    let mut world = World { pid_ns: read_u64(stamps, 0), boot_id: [0; 16] };
    world.boot_id.copy_from_slice(&stamps[16..]);
    world
}

/// What a validated header says.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub created_us: u64,
    pub world: World,
}

struct Field {
    name: &'static str,
    at: usize,
    value: Vec<u8>,
    mismatch: Code,
}

/// What must be byte by byte what this process would write, in the order in which a difference is
/// worth telling: a foreign byte order explains everything behind it.
fn fixed_fields(platform: &Platform) -> Vec<Field> {
    let word = |name, at, value: u32| Field {
        name,
        at,
        value: value.to_ne_bytes().to_vec(),
        mismatch: Code::Incompatible,
    };
    let mutex_bytes = size_of::<libc::pthread_mutex_t>() as u32;
    vec![
        Field {
            name: "magic",
            at: offset_of!(Header, magic),
            value: MAGIC.to_vec(),
            mismatch: Code::Corrupt,
        },
        word("byte order", offset_of!(Header, endian), ENDIAN_MARK),
        word("layout version", offset_of!(Header, layout), LAYOUT_VERSION),
        word("incompatible features", offset_of!(Header, incompat), INCOMPAT_KNOWN),
        word("pointer width", offset_of!(Header, pointer_bits), usize::BITS),
        word("mutex size", offset_of!(Header, mutex_bytes), mutex_bytes),
        word("lock word offset", offset_of!(Header, word_offset), platform.word_offset as u32),
        Field {
            name: "mutex image (another C library)",
            at: offset_of!(Header, image),
            value: platform.image.to_vec(),
            mismatch: Code::Incompatible,
        },
        word("slot size", offset_of!(Header, slot_bytes), size_of::<Slot>() as u32),
        word("most locks", offset_of!(Header, max_locks), MAX_LOCKS),
        word("chunk size", offset_of!(Header, chunk_locks), CHUNK_LOCKS),
        Field {
            name: "file size",
            at: offset_of!(Header, file_bytes),
            value: FILE_BYTES.to_ne_bytes().to_vec(),
            mismatch: Code::Incompatible,
        },
    ]
}

/// Checks a private copy of a header. Nothing of the file is believed before this says yes.
pub fn validate(bytes: &[u8; HEADER_BYTES], size: u64, platform: &Platform) -> Result<Geometry> {
    for Field { name, at, value, mismatch } in fixed_fields(platform) {
        let found = &bytes[at..at + value.len()];
        if found == value {
            continue;
        }
        let (what, advice) = match mismatch {
            Code::Corrupt => ("is not a segment of this library".to_owned(), "choose another path"),
            _ => (
                format!("was made by an incompatible build: its {name} differs"),
                "give each build a segment of its own, or end all that use this one and delete it",
            ),
        };
        let (found, here) = (show(found), show(&value));
        let message = format!("the file {what} ({name}: {found}, here {here}); {advice}");
        return Err(Error::new(mismatch, message));
    }
    if size != FILE_BYTES {
        let message =
            format!("the file has {size} bytes, a whole segment has {FILE_BYTES}; {DELETE_IT}");
        return Err(Error::new(Code::Corrupt, message));
    }
    let capacity = read_u32(bytes, CAPACITY_AT);
    if capacity == 0 || capacity > MAX_LOCKS {
        let message =
            format!("the header's capacity is {capacity}, not 1 to {MAX_LOCKS}; {DELETE_IT}");
        return Err(Error::new(Code::Corrupt, message));
    }
    let mut admin = [0; MUTEX_ROOM];
    admin.copy_from_slice(&bytes[ADMIN_AT..ADMIN_AT + MUTEX_ROOM]);
    if !platform.is_mutex(&admin) {
        let message = format!("the header's admin mutex is damaged; {DELETE_IT}");
        return Err(Error::new(Code::Corrupt, message));
    }
    let mut stamps = [0; STAMP_BYTES];
    stamps.copy_from_slice(&bytes[STAMPS_AT..STAMPS_AT + STAMP_BYTES]);
    let created_us = read_u64(bytes, CREATED_AT);
    if created_us > MAX_TOKEN {
        let message =
            format!("the header's creation time is {created_us} µs, after 2255; {DELETE_IT}");
        return Err(Error::new(Code::Corrupt, message));
    }
    Ok(Geometry { created_us, world: stamped_world(&stamps) })
}

pub const DELETE_IT: &str = "end all that use it and delete it";

/// Tokens are handed out as JavaScript numbers: the largest safe integer, 2^53 - 1, is the year 2255.
const MAX_TOKEN: u64 = (1 << 53) - 1;

fn show(bytes: &[u8]) -> String {
    match *bytes {
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).to_string(),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(value)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mutex::platform;

    const WORLD: World = World { pid_ns: 7, boot_id: [9; 16] };

    fn header() -> [u8; HEADER_BYTES] {
        new_header(platform(), &WORLD, 3, 1234, 10)
    }

    #[test]
    fn what_we_write_we_accept() {
        let geometry = validate(&header(), FILE_BYTES, platform()).unwrap();
        assert_eq!(geometry.created_us, 1234);
        assert_eq!(geometry.world, WORLD);
    }

    #[test]
    fn every_fixed_byte_counts() {
        for field in fixed_fields(platform()) {
            for at in field.at..field.at + field.value.len() {
                let mut bytes = header();
                bytes[at] ^= 0x40;
                let refusal = validate(&bytes, FILE_BYTES, platform()).unwrap_err();
                assert_eq!(refusal.code, field.mismatch, "byte {at}");
            }
        }
    }

    #[test]
    fn sizes_capacities_and_the_admin_mutex_are_checked() {
        let code = |bytes, size| validate(&bytes, size, platform()).unwrap_err().code;
        assert_eq!(code(header(), FILE_BYTES - 1), Code::Corrupt);
        let mut none = header();
        none[CAPACITY_AT..CAPACITY_AT + 4].fill(0);
        assert_eq!(code(none, FILE_BYTES), Code::Corrupt);
        let mut huge = header();
        huge[CAPACITY_AT..CAPACITY_AT + 4].fill(0x7f);
        assert_eq!(code(huge, FILE_BYTES), Code::Corrupt);
        let mut no_mutex = header();
        no_mutex[ADMIN_AT..ADMIN_AT + MUTEX_ROOM].fill(0);
        assert_eq!(code(no_mutex, FILE_BYTES), Code::Corrupt);
    }
}
