//! Everything that is not hot. A function that can fail returns -1 or null then, and `lastError`
//! tells why: the Error is made in TypeScript.

use std::cell::RefCell;
use std::path::PathBuf;

use napi::Env;
use napi_derive::napi;
use robust_lock_core::{self as core, Handle, Manager, Mode, OpenOptions};

use crate::{Answer, EnvState, helper, pool, state};

thread_local!(static LAST_ERROR: RefCell<Option<core::Error>> = const { RefCell::new(None) });

/// The refusal of the call before.
#[napi(object)]
pub struct LastError {
    pub code: String,
    pub message: String,
    pub errno: Option<i32>,
    pub syscall: Option<String>,
    pub capacity: Option<u32>,
    pub held: Option<u32>,
}

fn keep<T>(result: core::Result<T>) -> Option<T> {
    result.map_err(|error| LAST_ERROR.set(Some(error))).ok()
}

#[napi]
pub fn last_error() -> Option<LastError> {
    LAST_ERROR.take().map(|error| LastError {
        code: error.code.as_str().to_owned(),
        message: error.message,
        errno: error.os.map(|(errno, _)| errno),
        syscall: error.os.map(|(_, syscall)| syscall.to_owned()),
        capacity: error.capacity,
        held: error.held,
    })
}

/// Of which robust-lock this is: the facade works with its own only.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The path of a named segment, in the folder given or the user's own, which is checked, and made unless
/// the segment must exist.
#[napi]
pub fn named_path(name: String, mode: u32, folder: Option<String>) -> Option<String> {
    let make = !matches!(mode_of(mode), Mode::Open);
    let folder = keep(core::private_folder(folder.map(PathBuf::from), make))?;
    Some(folder.join(name).to_string_lossy().into_owned())
}

fn mode_of(mode: u32) -> Mode {
    match mode {
        0 => Mode::OpenOrCreate,
        1 => Mode::Open,
        _ => Mode::Create,
    }
}

/// A segment's handle, or -1. `results[1]` tells whether this call created it. Modes: 0 open or
/// create, 1 open, 2 create.
#[napi]
pub fn open(
    env: Env,
    path: String,
    mode: u32,
    capacity: Option<u32>,
    in_use: Vec<u32>,
) -> napi::Result<i32> {
    let state = state(&env)?;
    let options = OpenOptions { path: PathBuf::from(path), mode: mode_of(mode), capacity, in_use };
    let Some((manager, created)) = keep(Manager::open(&options)) else { return Ok(-1) };
    state.answer(Answer::Errno, f64::from(u8::from(created)));
    let mut segments = state.segments.borrow_mut();
    let known = segments.iter().position(|known| std::ptr::eq(known.segment(), manager.segment()));
    let handle = known.unwrap_or_else(|| {
        segments.push(manager);
        segments.len() - 1
    });
    Ok(handle as i32)
}

fn manager(state: &EnvState, segment: u32) -> napi::Result<Manager> {
    let segments = state.segments.borrow();
    let found = segments.get(segment as usize).copied();
    found.ok_or_else(|| napi::Error::from_reason("no such segment"))
}

/// An id and its generation in one safe integer: 2^20 ids, 2^31 generations. Without a generation:
/// the id alone, below 0, as -2 - id. -1 is a refusal.
fn ticket(handle: core::Result<Handle>) -> f64 {
    match keep(handle) {
        None => -1.0,
        Some(Handle { id, generation: None }) => -2.0 - f64::from(id),
        Some(Handle { id, generation: Some(generation) }) => {
            f64::from(generation) * f64::from(core::MAX_LOCKS) + f64::from(id)
        }
    }
}

#[napi]
pub fn allocate(env: Env, segment: u32) -> napi::Result<f64> {
    Ok(ticket(manager(state(&env)?, segment)?.allocate()))
}

#[napi]
pub fn allocate_given(env: Env, segment: u32, id: u32) -> napi::Result<f64> {
    Ok(ticket(manager(state(&env)?, segment)?.allocate_given(id)))
}

#[napi]
pub fn retrieve(env: Env, segment: u32, id: u32) -> napi::Result<f64> {
    Ok(ticket(manager(state(&env)?, segment)?.retrieve(id)))
}

/// False is a refusal. A generation below 0 stands for none.
#[napi]
pub fn free(env: Env, segment: u32, id: u32, generation: f64) -> napi::Result<bool> {
    let generation = (generation >= 0.0).then_some(generation as u32);
    let freed = manager(state(&env)?, segment)?.free(Handle { id, generation });
    Ok(keep(freed).is_some())
}

#[napi]
pub fn free_all(env: Env, segment: u32) -> napi::Result<bool> {
    Ok(keep(manager(state(&env)?, segment)?.free_all()).is_some())
}

#[napi]
pub fn available(env: Env, segment: u32) -> napi::Result<u32> {
    Ok(manager(state(&env)?, segment)?.available())
}

#[napi]
pub fn capacity(env: Env, segment: u32) -> napi::Result<u32> {
    Ok(manager(state(&env)?, segment)?.segment().capacity())
}

#[napi]
pub fn locks_held(env: Env, segment: u32) -> napi::Result<Vec<u32>> {
    Ok(manager(state(&env)?, segment)?.locks_held())
}

/// Whether any thread holds the lock at this instant.
#[napi]
pub fn is_held(env: Env, segment: u32, id: u32) -> napi::Result<bool> {
    Ok(state(&env)?.lock(segment, id).is_some_and(|lock| lock.is_held()))
}

/// What is to be warned of. Bit 0: the segment's file has been deleted. Bit 1: there is a `suspicion`.
#[napi]
pub fn trouble(env: Env, segment: u32) -> napi::Result<u32> {
    let manager = manager(state(&env)?, segment)?;
    let segment = manager.segment();
    Ok(u32::from(segment.is_stale()) | u32::from(segment.suspicion().is_some()) << 1)
}

/// A lock and the thread that its word names, if that seems not to be its holder; see the core.
#[napi]
pub fn suspicion(env: Env, segment: u32) -> napi::Result<Option<Vec<u32>>> {
    let suspicion = manager(state(&env)?, segment)?.segment().suspicion();
    Ok(suspicion.map(|(id, tid)| vec![id, tid]))
}

/// Sends a helper to wait for the lock, if none is out. False: no helper could be started.
#[napi]
pub fn want(env: Env, segment: u32, id: u32) -> napi::Result<bool> {
    Ok(helper::waiter(state(&env)?, segment, id).is_some_and(|waiter| waiter.want()))
}

/// The same after a try, with which an offer that stands is over.
#[napi]
pub fn arm(env: Env, segment: u32, id: u32) -> napi::Result<bool> {
    Ok(helper::waiter(state(&env)?, segment, id).is_some_and(|waiter| waiter.arm()))
}

/// Tells the helper of this lock, if there is one, to open whatever it gets, and answers its offer.
#[napi]
pub fn stand_down(env: Env, segment: u32, id: u32) -> napi::Result<()> {
    if let Some(waiter) = state(&env)?.waiters.borrow().get(&(segment, id)) {
        waiter.stand_down();
    }
    Ok(())
}

/// What helpers have to tell, four numbers each: segment, id, by how many ms this call is late for an offer that was
/// missed (else 0), and 0 for an offer that stands or was missed, or what it is instead: the verdict with which a helper
/// failed, that it saw the segment's file deleted, or that main is not free yet. What has been answered is left out.
#[napi]
pub fn take_offers(env: Env) -> napi::Result<Vec<f64>> {
    let state = state(&env)?;
    // What was cut off may be just what the offer brought; then no other call of this thread need ever come.
    state.release_unclaimed();
    Ok(helper::take_offers(state))
}

/// Whether pending waits keep the process alive.
#[napi]
pub fn keep_alive(env: Env, on: bool) -> napi::Result<()> {
    let state = state(&env)?;
    helper::start_inbox(&env, state)?;
    state.inbox.keep_alive(&env, on)
}

/// How many helper threads this process has now.
#[napi]
pub fn helpers() -> u32 {
    pool::threads()
}
