//! Opening: find the segment, make it, or adopt one whose processes are all gone.
//!
//! Every process that has a segment open keeps a shared flock on it. So an exclusive one means that
//! nobody else has it, and only then may its mutexes be made anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex as ProcessMutex, PoisonError};
use std::time::Duration;

use crate::check::{cannot_open, check_file, not_tmpfs};
use crate::error::{Code, Error, Result};
use crate::layout::{
    self, ADMIN_AT, CHUNK_BYTES, CHUNK_MAP_AT, CHUNKS, DEFAULT_CAPACITY, EAGER_BYTES, FILE_BYTES,
    GATE_A_AT, GATE_B_AT, Geometry, HEADER_BYTES, MAIN_AT, MAX_LOCKS, SLOTS_AT, STAMP_BYTES,
    STAMPS_AT, Slot,
};
use crate::segment::Segment;
use crate::sys::clock::{self, NS_PER_MS};
use crate::sys::file;
use crate::sys::mutex::{MUTEX_ROOM, gettid, platform};
use crate::sys::proc::{self, World};

/// Whether the segment must exist already, must not, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    OpenOrCreate,
    Open,
    Create,
}

/// What to open, and what to make of it if it is not there.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub path: PathBuf,
    pub mode: Mode,
    pub capacity: Option<u32>,
    /// Ids that are allocated from the first instant, if this call creates the segment.
    pub in_use: Vec<u32>,
}

/// How long a segment may be between two states (made by one, adopted by another) before it is said
/// to be somebody else's.
const PATIENCE_NS: u64 = 1_000 * NS_PER_MS;

/// And so many looks at it: of a process that was itself stopped, or starved, the time alone says nothing.
const LOOKS: u32 = 100;

/// How many segments a process can have: the place of one and an id fit into 32 bits together.
const MOST_SEGMENTS: usize = 1 << (32 - MAX_LOCKS.trailing_zeros());

/// Segments of this process, never given up: see [`Segment`].
static REGISTRY: ProcessMutex<Vec<&'static Segment>> = ProcessMutex::new(Vec::new());

/// The segment, and whether this call created it.
pub fn open(options: &OpenOptions) -> Result<(&'static Segment, bool)> {
    if let Some(capacity) = options.capacity
        && !(1..=MAX_LOCKS).contains(&capacity)
    {
        let message = format!("capacity must be 1 to {MAX_LOCKS}, not {capacity}");
        return Err(Error::new(Code::OutOfRange, message));
    }
    let world = own_world()?;
    // One at a time: a second thread's open must find the first one's segment, not try to adopt it.
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = clock::monotonic_ns();
    // Two openers that disturb each other do not do so again in step.
    let pause = Duration::from_micros(1_000 + u64::from(gettid()) % 1_000);
    let mut looks = 0;
    loop {
        let attempt = match attempt(options, &world, &mut registry) {
            Ok(Step::Again(attempt)) => attempt,
            Ok(Step::Done(segment, created)) => {
                if let Some(capacity) = options.capacity {
                    segment.grow(capacity);
                }
                return Ok((segment, created));
            }
            Err(error) => return Err(error),
        };
        looks += 1;
        if looks >= LOOKS && clock::monotonic_ns() - begun > PATIENCE_NS {
            return Err(gave_up(options, attempt));
        }
        std::thread::sleep(pause);
    }
}

enum Step {
    Done(&'static Segment, bool),
    Again(Obstacle),
}

#[derive(Clone, Copy)]
enum Obstacle {
    /// Its TIDs are another world's, and somebody there has it open.
    Foreign,
    /// Ours or nobody's, but somebody is changing it.
    Changing,
}

fn gave_up(options: &OpenOptions, obstacle: Obstacle) -> Error {
    let path = options.path.display();
    match obstacle {
        Obstacle::Foreign => Error::new(
            Code::PidNamespace,
            format!(
                "{path} is open in another PID namespace (a container?), where thread ids mean \
                 something else; share the namespace, or do not share the folder"
            ),
        ),
        Obstacle::Changing => Error::new(
            Code::Stalled,
            format!(
                "{path} is being set up by a process that does not get on: is it stopped? \
                 \"fuser -v {path}\" names it; continue it (SIGCONT) or end it"
            ),
        ),
    }
}

fn own_world() -> Result<World> {
    let advice = "mount a /proc of this PID namespace (unshare has --mount-proc)";
    let world = proc::world().map_err(|error| {
        let mut refusal = Error::from_os(&error, "open", "read /proc");
        // A process that may have no more descriptors knows nothing about /proc.
        if refusal.code != Code::NoMemory {
            refusal.code = Code::NoProc;
        }
        refusal
    })?;
    let foreign =
        || Error::new(Code::NoProc, format!("/proc does not show this process: {advice}"));
    let world = world.ok_or_else(foreign)?;
    // Probed here: whoever has a segment has a working platform.
    let robust = platform().is_robust();
    if robust.map_err(|e| Error::from_os(&e, "pthread_create", "probe for robust mutexes"))? {
        return Ok(world);
    }
    let message = "the kernel does not release the mutexes of dead threads here (an emulator or a \
                   sandbox?), so locks would not survive a kill; run it without that";
    Err(Error::new(Code::NotRobust, message))
}

/// One try from the start. "Again" is for everything that another process is just changing.
fn attempt(
    options: &OpenOptions,
    world: &World,
    registry: &mut Vec<&'static Segment>,
) -> Result<Step> {
    let path = &options.path;
    let file = match file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if options.mode == Mode::Open {
                let mut refusal =
                    Error::from_os(&error, "open", &format!("open {}", path.display()));
                refusal.message.push_str(", or let it be created (mode 'open-or-create')");
                return Err(refusal);
            }
            return create(options, world, registry);
        }
        Err(error) => return Err(cannot_open(path, &error)),
    };
    if options.mode == Mode::Create {
        let message = format!("{} exists already; open it without mode 'create'", path.display());
        return Err(Error::new(Code::Exists, message));
    }
    let meta = file.metadata().map_err(|e| Error::from_os(&e, "fstat", "open the segment"))?;
    if meta.nlink() == 0 {
        return Ok(Step::Again(Obstacle::Changing));
    }
    let here = (meta.dev(), meta.ino());
    if let Some(segment) = registry.iter().find(|open| (open.dev, open.ino) == here) {
        return Ok(Step::Done(segment, false));
    }
    check_file(path, &file, &meta)?;
    check_room(registry.len())?;
    let geometry = read_header(path, &file)?;
    if geometry.world != *world {
        return adopt(path, &file, geometry.world, world);
    }
    // A flock that is refused means an adopter at work, and its stamps will be read anew.
    if !flock(&file, false)? || !still_there(path, here) {
        return Ok(Step::Again(Obstacle::Changing));
    }
    if read_stamps(&file)? != *world {
        return Ok(Step::Again(Obstacle::Changing));
    }
    // A copy of a segment may have holes where a segment has none; a touch of one could raise SIGBUS.
    file::reserve(&file, 0, EAGER_BYTES)
        .map_err(|e| Error::from_os(&e, "fallocate", "open the segment"))?;
    Ok(Step::Done(register(registry, Segment::map(file, path, geometry.created_us)?), false))
}

fn check_room(open: usize) -> Result<()> {
    if open < MOST_SEGMENTS {
        return Ok(());
    }
    let message = format!(
        "this process has opened {MOST_SEGMENTS} segments, and keeps each until it ends: use fewer, \
         with more locks each"
    );
    Err(Error::new(Code::NoMemory, message))
}

fn register(registry: &mut Vec<&'static Segment>, segment: Segment) -> &'static Segment {
    let segment: &'static Segment = Box::leak(Box::new(segment));
    registry.push(segment);
    segment
}

fn read_header(path: &Path, file: &File) -> Result<Geometry> {
    let mut bytes = [0; HEADER_BYTES];
    let size = file.metadata().map_err(|e| Error::from_os(&e, "fstat", "open the segment"))?.len();
    if let Err(error) = file.read_exact_at(&mut bytes, 0)
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        return Err(Error::from_os(&error, "pread", "read the segment's header"));
    }
    layout::validate(&bytes, size, platform()).map_err(|mut refusal| {
        refusal.message = format!("{}: {}", path.display(), refusal.message);
        refusal
    })
}

fn read_stamps(file: &File) -> Result<World> {
    let mut stamps = [0; STAMP_BYTES];
    file.read_exact_at(&mut stamps, STAMPS_AT as u64)
        .map_err(|e| Error::from_os(&e, "pread", "read the segment's stamps"))?;
    Ok(layout::stamped_world(&stamps))
}

fn flock(file: &File, exclusive: bool) -> Result<bool> {
    file::flock(file, exclusive).map_err(|e| Error::from_os(&e, "flock", "lock the segment"))
}

fn still_there(path: &Path, here: (u64, u64)) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == here)
}

/// Makes the mutexes anew in a segment that was left by another PID namespace or boot. Killed at any
/// point, it leaves stamps that are foreign or zero, and the next opener does it again. What the
/// mutexes protected stays: allocations, generations, tokens, and `dirty`, which tells the next
/// holder of a lock that the last one did not finish.
fn adopt(path: &Path, file: &File, foreign: World, world: &World) -> Result<Step> {
    let in_the_way = match foreign.pid_ns {
        0 => Obstacle::Changing,
        _ => Obstacle::Foreign,
    };
    check_size_limit()?;
    let meta = file.metadata().map_err(|e| Error::from_os(&e, "fstat", "adopt the segment"))?;
    if !flock(file, true)? {
        return Ok(Step::Again(in_the_way));
    }
    // Somebody else may have adopted it while we came; then it is not foreign any more.
    if still_there(path, (meta.dev(), meta.ino())) && read_stamps(file)? == foreign {
        let failed = |error: io::Error| Error::from_os(&error, "pwrite", "adopt the segment");
        file.write_all_at(&[0; STAMP_BYTES], STAMPS_AT as u64).map_err(failed)?;
        renew_mutexes(file).map_err(failed)?;
        let stamps = layout::stamps(world, proc::time_ns());
        file.write_all_at(&stamps, STAMPS_AT as u64).map_err(failed)?;
    }
    // The exclusive lock goes with the descriptor; it is not converted. Start over with a new one.
    Ok(Step::Again(in_the_way))
}

fn renew_mutexes(file: &File) -> io::Result<()> {
    let image = &platform().image;
    let mut map = [0; CHUNKS as usize / 8];
    file.read_exact_at(&mut map, CHUNK_MAP_AT as u64)?;
    let mut chunk_bytes = vec![0; CHUNK_BYTES as usize];
    for chunk in 0..CHUNKS {
        let word = chunk as usize / 64 * 8;
        let mut bits = [0; 8];
        bits.copy_from_slice(&map[word..word + 8]);
        if u64::from_ne_bytes(bits) & (1 << (chunk % 64)) == 0 {
            continue;
        }
        let at = SLOTS_AT as u64 + u64::from(chunk) * CHUNK_BYTES;
        file.read_exact_at(&mut chunk_bytes, at)?;
        // A damaged map names chunks that are not there: not made here, and refused when they are used.
        if chunk_bytes.iter().all(|&byte| byte == 0) {
            continue;
        }
        for slot in chunk_bytes.chunks_exact_mut(size_of::<Slot>()) {
            for mutex in [MAIN_AT, GATE_A_AT, GATE_B_AT] {
                slot[mutex..mutex + MUTEX_ROOM].copy_from_slice(image);
            }
        }
        file.write_all_at(&chunk_bytes, at)?;
    }
    file.write_all_at(image, ADMIN_AT as u64)
}

/// Looked at before the file is written to beyond the limit: the kernel would raise SIGXFSZ.
fn check_size_limit() -> Result<()> {
    if file::size_limit() >= FILE_BYTES {
        return Ok(());
    }
    let message = format!(
        "the limit on file sizes (ulimit -f) is below the {FILE_BYTES} bytes of a segment, which \
         are sparse: raise it"
    );
    Err(Error::new(Code::NoSpace, message))
}

/// Makes a segment without a name, and links it when it is whole: nobody ever sees half of one.
fn create(
    options: &OpenOptions,
    world: &World,
    registry: &mut Vec<&'static Segment>,
) -> Result<Step> {
    let path = &options.path;
    let doing = format!("create {}", path.display());
    let cannot = |syscall| {
        let doing = doing.clone();
        move |error: io::Error| Error::from_os(&error, syscall, &doing)
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let capacity = options.capacity.unwrap_or(DEFAULT_CAPACITY);
    if let Some(id) = options.in_use.iter().find(|&&id| id >= capacity) {
        let message = format!("inUse names lock {id}, beyond the capacity of {capacity}");
        return Err(Error::new(Code::OutOfRange, message));
    }
    check_room(registry.len())?;
    let file = file::open_unnamed(folder, 0o600).map_err(cannot("open"))?;
    if !file::on_tmpfs(&file).map_err(cannot("fstatfs"))? {
        return Err(not_tmpfs(path));
    }
    check_size_limit()?;
    // Whatever the umask has taken away from it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    file.set_permissions(mode).map_err(cannot("fchmod"))?;
    file.set_len(FILE_BYTES).map_err(cannot("ftruncate"))?;
    file::reserve(&file, 0, EAGER_BYTES).map_err(cannot("fallocate"))?;
    let created_us = clock::wall_us();
    let header = layout::new_header(platform(), world, proc::time_ns(), created_us, capacity);
    file.write_all_at(&header, 0).map_err(cannot("pwrite"))?;
    let segment = Segment::map(file, path, created_us)?;
    for &id in &options.in_use {
        segment.ids().allocate_given(id);
    }
    // Held before anybody can see it: a visible segment that nobody has open could be adopted.
    let linked = flock(&segment.file, false).and_then(|_| {
        let lost = |e: &io::Error| e.kind() == io::ErrorKind::AlreadyExists;
        match file::link(&segment.file, path) {
            Ok(()) => Ok(true),
            Err(error) if lost(&error) && options.mode != Mode::Create => Ok(false),
            Err(error) => Err(cannot("linkat")(error)),
        }
    });
    if let Ok(true) = linked {
        return Ok(Step::Done(register(registry, segment), true));
    }
    segment.discard();
    linked.map(|_| Step::Again(Obstacle::Changing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_and_an_id_fit_into_32_bits() {
        assert!(check_room(MOST_SEGMENTS - 1).is_ok());
        assert_eq!(check_room(MOST_SEGMENTS).unwrap_err().code, Code::NoMemory);
        let last = (MOST_SEGMENTS as u64 - 1) * u64::from(MAX_LOCKS) + u64::from(MAX_LOCKS) - 1;
        assert_eq!(last, u64::from(u32::MAX));
    }
}
