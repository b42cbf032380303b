//! The functions that a lock and an unlock consist of, registered on `napi::sys` directly: the napi
//! crate's own bookkeeping costs three times the lock. They take numbers, return a verdict, and put a
//! token or an errno into the environment's result array. Their types are declared in
//! ts/native.cts.

use std::ffi::{CStr, c_void};
use std::ptr;

use napi::sys;
use robust_lock_core::{Acquired, Lock, MAX_LOCKS, Refusal};

use crate::{Answer, EnvState, Unless, check, helper};

/// What JS is told, unless all is well: then it is told nothing, `undefined`, because a number costs as
/// much as the look-up of a lock. (That a lock was acquired it sees by the word that was left of it: a call
/// without any answer acquires nothing.) The same numbers stand in ts/native.cts.
pub(crate) mod verdict {
    pub const BUSY: u32 = 0;
    /// Of `unlockAs` alone: handed over inside the thread.
    pub const HANDED_OVER: u32 = 1;
    pub const OWNER_DIED: u32 = 2;
    pub const OWN: u32 = 4;
    pub const TIMED_OUT: u32 = 5;
    pub const STOPPED: u32 = 6;
    pub const TOO_MANY_HELD: u32 = 7;
    pub const NOT_HELD: u32 = 8;
    pub const FORKED: u32 = 9;
    pub const BROKEN: u32 = 10;
    pub const NO_SUCH_LOCK: u32 = 11;
    /// No verdict on a lock: its helper has seen something that is to be warned of.
    pub const STALE: u32 = 12;
    /// Nor this: its helper's offer is an early one.
    pub const EARLY: u32 = 13;
}

pub(crate) fn refused(state: &EnvState, refusal: Refusal) -> u32 {
    match refusal {
        Refusal::Busy => verdict::BUSY,
        Refusal::Own => verdict::OWN,
        Refusal::TimedOut => verdict::TIMED_OUT,
        Refusal::Stopped => verdict::STOPPED,
        Refusal::TooManyHeld => verdict::TOO_MANY_HELD,
        Refusal::NotHeld => verdict::NOT_HELD,
        Refusal::Forked => verdict::FORKED,
        Refusal::Broken(errno) => {
            state.answer(Answer::Errno, f64::from(errno));
            verdict::BROKEN
        }
    }
}

/// `None` if all is well.
fn tell(state: &EnvState, key: u32, outcome: Result<Acquired, Refusal>) -> Option<u32> {
    match outcome {
        Ok(Acquired { owner_died, token }) => {
            state.leave_word(token, Unless::Release { key, owner_died });
            owner_died.then_some(verdict::OWNER_DIED)
        }
        Err(refusal) => Some(refused(state, refusal)),
    }
}

/// A call's arguments and the state that its function was registered with.
struct Call<'a> {
    state: &'a EnvState,
    args: [sys::napi_value; 2],
}

impl Call<'_> {
    /// `wanted`: how many arguments, 2 at most.
    #[inline]
    fn new(env: sys::napi_env, info: sys::napi_callback_info, wanted: usize) -> Option<Self> {
        let mut args = [ptr::null_mut(); 2];
        let (mut count, mut data) = (wanted.min(args.len()), ptr::null_mut::<c_void>());
        // SAFETY: called by Node with a live environment and call; `args` has room for `count`
        // values, missing ones become undefined.
        let status = unsafe {
            sys::napi_get_cb_info(
                env,
                info,
                &mut count,
                args.as_mut_ptr(),
                ptr::null_mut(),
                &mut data,
            )
        };
        // SAFETY: `register` gave the function its environment's state, which outlives it.
        let state = unsafe { data.cast::<EnvState>().as_ref() }?;
        (status == sys::Status::napi_ok).then_some(Self { state, args })
    }
}

/// Segment and id of a key.
pub(crate) fn place_of(key: u32) -> (u32, u32) {
    (key / MAX_LOCKS, key % MAX_LOCKS)
}

/// Runs a hot function: its first argument is a key, `segment * 2^20 + id`; there may be a second.
#[inline]
fn with_lock(
    env: sys::napi_env,
    info: sys::napi_callback_info,
    arguments: usize,
    run: impl FnOnce(&EnvState, Lock, u32, sys::napi_value) -> Option<u32>,
) -> sys::napi_value {
    let Some(Call { state, args: [key, second] }) = Call::new(env, info, arguments) else {
        return number(env, verdict::NO_SUCH_LOCK);
    };
    state.release_unclaimed();
    let key = uint(env, key);
    let (segment, id) = place_of(key);
    let Some(lock) = state.lock(segment, id) else {
        return number(env, verdict::NO_SUCH_LOCK);
    };
    // The null pointer is undefined.
    run(state, lock, key, second).map_or(ptr::null_mut(), |verdict| number(env, verdict))
}

fn uint(env: sys::napi_env, value: sys::napi_value) -> u32 {
    let mut number = u32::MAX;
    // SAFETY: a value of the current call. Anything but a number leaves u32::MAX: no such lock.
    unsafe { sys::napi_get_value_uint32(env, value, &mut number) };
    number
}

fn double(env: sys::napi_env, value: sys::napi_value) -> f64 {
    let mut number = 0.0;
    // SAFETY: a value of the current call. Anything but a number leaves 0: one try.
    unsafe { sys::napi_get_value_double(env, value, &mut number) };
    number
}

fn number(env: sys::napi_env, value: u32) -> sys::napi_value {
    let mut result = ptr::null_mut();
    // SAFETY: a live environment. It cannot fail then, not even with an exception on its way.
    unsafe { sys::napi_create_uint32(env, value, &mut result) };
    result
}

/// tryLock(key): verdict.
unsafe extern "C" fn try_lock(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    with_lock(env, info, 1, |state, lock, key, _| tell(state, key, lock.try_acquire()))
}

/// tryInTurn(key): verdict. Does not overtake those who stand at the gate.
unsafe extern "C" fn try_in_turn(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    with_lock(env, info, 1, |state, lock, key, _| tell(state, key, lock.try_in_turn()))
}

/// lockSync(key): verdict. Blocks the thread.
unsafe extern "C" fn lock_sync(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    with_lock(env, info, 1, |state, lock, key, _| block(env, state, lock, key, None))
}

/// lockSyncFor(key, timeout): verdict. Blocks the thread, for so many ms at most.
unsafe extern "C" fn lock_sync_for(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    with_lock(env, info, 2, |state, lock, key, timeout| {
        block(env, state, lock, key, Some(double(env, timeout)))
    })
}

/// tryFor(key, patience): verdict. Waits for main past the gate, for so many ms at most.
unsafe extern "C" fn try_for(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    with_lock(env, info, 2, |state, lock, key, patience| {
        let ns = (double(env, patience) * 1e6) as u64;
        tell(state, key, lock.acquire_past_gate(ns, &mut || call_into_js(env, state)))
    })
}

/// Stands this thread's helper for the lock down meanwhile. If the lock is not got, the helper is sent
/// again from here: the end of a vm's time or of a Worker lets no more JS run, not even a `finally`.
fn block(
    env: sys::napi_env,
    state: &EnvState,
    lock: Lock,
    key: u32,
    timeout_ms: Option<f64>,
) -> Option<u32> {
    let waiter = state.waiters.borrow().get(&place_of(key)).cloned();
    let wanted = waiter.as_ref().is_some_and(|waiter| waiter.stand_down());
    let outcome = lock.acquire(timeout_ms, &mut || {
        if lock.is_troubled() {
            state.answer(Answer::Stale, 1.0);
        }
        call_into_js(env, state)
    });
    if outcome.is_err()
        && wanted
        && let Some(waiter) = waiter
    {
        // Where no helper can be had, JS is called, and finds out.
        let _ = waiter.arm();
    }
    tell(state, key, outcome)
}

/// Calls a JS function that does nothing. False if it could not be: the Worker is being terminated,
/// or a vm timeout has passed.
fn call_into_js(env: sys::napi_env, state: &EnvState) -> bool {
    let mut scope = ptr::null_mut();
    // SAFETY: a live environment on its own thread.
    if unsafe { sys::napi_open_handle_scope(env, &mut scope) } != sys::Status::napi_ok {
        return false;
    }
    let (mut pause, mut receiver) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: `start` made the reference, or it is null and the call fails.
    unsafe { sys::napi_get_reference_value(env, state.pause.get(), &mut pause) };
    // SAFETY: room for one value.
    unsafe { sys::napi_get_undefined(env, &mut receiver) };
    // SAFETY: values of the scope above; no arguments, no result wanted.
    let status =
        unsafe { sys::napi_call_function(env, receiver, pause, 0, ptr::null(), ptr::null_mut()) };
    // SAFETY: the scope opened above, closed once. It can be closed with an exception pending.
    unsafe { sys::napi_close_handle_scope(env, scope) };
    status == sys::Status::napi_ok
}

/// unlock(key): verdict.
unsafe extern "C" fn unlock(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    with_lock(env, info, 1, |state, lock, _, _| release(state, &lock, false))
}

/// unlockAs(key, flags): verdict. Bit 0: `dirty` stays. Bit 1: somebody waits on this thread, so pass
/// the lock on if nobody stands at the gate; then the verdict is the new holder's. If it is released instead, the helper
/// is sent from here: JS may be cut off behind this call (the end of the stack, or of a vm's time).
unsafe extern "C" fn unlock_as(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    with_lock(env, info, 2, |state, lock, key, flags| {
        let flags = uint(env, flags);
        let (keep_dirty, waited_for) = (flags & 1 != 0, flags & 2 != 0);
        if waited_for && let Ok(acquired) = lock.hand_over(keep_dirty) {
            state.leave_word(acquired.token, Unless::Keep);
            let verdict =
                if acquired.owner_died { verdict::OWNER_DIED } else { verdict::HANDED_OVER };
            return Some(verdict);
        }
        let refused = release(state, &lock, keep_dirty);
        if waited_for && refused.is_none() {
            let (segment, id) = place_of(key);
            // Where no helper can be had, JS is called, and finds out.
            let _ = helper::waiter(state, segment, id).is_some_and(|waiter| waiter.arm());
        }
        refused
    })
}

fn release(state: &EnvState, lock: &Lock, keep_dirty: bool) -> Option<u32> {
    lock.release(keep_dirty).err().map(|refusal| refused(state, refusal))
}

/// start(pause, wake): the two functions that this environment's waits call.
unsafe extern "C" fn start(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    if let Some(Call { state, args: [pause, wake] }) = Call::new(env, info, 2) {
        for (function, keep) in [(pause, &state.pause), (wake, &state.wake)] {
            let mut reference = ptr::null_mut();
            // SAFETY: a value of the current call. Never deleted: it goes with the environment.
            unsafe { sys::napi_create_reference(env, function, 1, &mut reference) };
            keep.set(reference);
        }
    }
    ptr::null_mut()
}

type Callback = unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value;

/// Puts the functions of this file among the module's exports.
pub(crate) fn register(
    env: sys::napi_env,
    exports: sys::napi_value,
    state: *mut EnvState,
) -> napi::Result<()> {
    let functions: [(&CStr, Callback); 8] = [
        (c"tryLock", try_lock),
        (c"tryInTurn", try_in_turn),
        (c"lockSync", lock_sync),
        (c"lockSyncFor", lock_sync_for),
        (c"tryFor", try_for),
        (c"unlock", unlock),
        (c"unlockAs", unlock_as),
        (c"start", start),
    ];
    for (name, callback) in functions {
        let length = name.to_bytes().len() as isize;
        let mut function = ptr::null_mut();
        // SAFETY: a live environment, a name of that length, a callback of the right type, and a
        // state that outlives the environment's functions.
        let made = unsafe {
            sys::napi_create_function(
                env,
                name.as_ptr(),
                length,
                Some(callback),
                state.cast(),
                &mut function,
            )
        };
        check(made, "create a function")?;
        // SAFETY: two values of this scope, and a name that ends with NUL.
        let set = unsafe { sys::napi_set_named_property(env, exports, name.as_ptr(), function) };
        check(set, "export a function")?;
    }
    Ok(())
}
