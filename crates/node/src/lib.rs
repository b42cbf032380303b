//! The Node-API layer: functions over integer handles that return numbers. Errors, promises and
//! queues are made in TypeScript.
//!
//! - `hot`: what a lock and an unlock cost; on `napi::sys`, where a call costs what C pays.
//! - `ops`: everything else, `#[napi]`.
//! - `helper`, `phase`, `pool`: threads that wait in the place of a JS thread.
//!
//! A segment's handle is its place in the environment's list, and is never given up: neither is the
//! mapping. No panic crosses the boundary: what could panic is denied by lint.

mod helper;
mod hot;
mod ops;
#[forbid(unsafe_code)]
mod phase;
#[forbid(unsafe_code)]
mod pool;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use napi::bindgen_prelude::Object;
use napi::{Env, JsValue, sys};
use napi_derive::napi;
use robust_lock_core::{Lock, Manager};

use helper::{Inbox, Waiter};

/// What one environment (the main thread, or a Worker) has of the library.
pub(crate) struct EnvState {
    segments: RefCell<Vec<Manager>>,
    /// Numbers that JS reads after a call: see [`Answer`].
    results: *const [Cell<f64>; RESULTS],
    unless_taken: Cell<Unless>,
    /// Called between two slices of a blocking wait: only a call into JS lets a termination through.
    pause: Cell<sys::napi_ref>,
    /// What the threadsafe function will call.
    wake: Cell<sys::napi_ref>,
    waiters: RefCell<HashMap<(u32, u32), Arc<Waiter>>>,
    inbox: Arc<Inbox>,
}

impl EnvState {
    pub(crate) fn lock(&self, segment: u32, id: u32) -> Option<Lock> {
        self.segments.borrow().get(segment as usize)?.lock(id)
    }

    pub(crate) fn answer(&self, place: Answer, value: f64) {
        self.cell(place).set(value);
    }

    fn cell(&self, place: Answer) -> &Cell<f64> {
        // SAFETY: room for RESULTS numbers; a reference keeps the buffer alive as long as this state,
        // only this thread uses it, and nobody else knows it to detach it.
        let results = unsafe { &*self.results };
        &results[place as usize]
    }

    /// Leaves word of an acquisition: its token, which JS sets to 0 when it has taken note, and for ourselves
    /// what to do if it does not.
    pub(crate) fn leave_word(&self, token: u64, unless_taken: Unless) {
        self.answer(Answer::Token, token as f64);
        self.unless_taken.set(unless_taken);
    }

    /// Lets go of a lock that was acquired for JS and that JS knows nothing of: the end of its stack, or
    /// of a vm's time, came before it could take note.
    #[inline]
    pub(crate) fn release_unclaimed(&self) {
        if self.take_word() {
            self.release_and_wait_on();
        }
    }

    /// Whether word of an acquisition was left that JS has not taken.
    #[inline]
    fn take_word(&self) -> bool {
        self.cell(Answer::Token).replace(0.0) != 0.0
    }

    #[cold]
    fn release_and_wait_on(&self) {
        // Its helper may have been stood down for it.
        if let Some(place) = self.release_unless_taken()
            && let Some(waiter) = self.waiters.borrow().get(&place).cloned()
        {
            // Where no helper can be had, JS is called, and finds out.
            let _ = waiter.arm();
        }
    }

    /// Which lock it was.
    fn release_unless_taken(&self) -> Option<(u32, u32)> {
        let Unless::Release { key, owner_died } = self.unless_taken.get() else { return None };
        let (segment, id) = hot::place_of(key);
        // JS has not been inside, so what was told is to be told again.
        let _ = self.lock(segment, id)?.release(owner_died);
        Some((segment, id))
    }
}

/// What the next call does if JS has not taken note of an acquisition.
#[derive(Clone, Copy)]
pub(crate) enum Unless {
    /// Handed over inside the thread: the last guard can release it.
    Keep,
    Release {
        key: u32,
        owner_died: bool,
    },
}

/// Places in the result array. The same stand in ts/native.cts.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// The token of an acquisition that JS has not taken note of yet; else 0.
    Token = 0,
    /// The errno of a damaged mutex; whether `open` created the segment.
    Errno = 1,
    /// Not 0: a blocking wait has seen that its segment's file is deleted.
    Stale = 2,
}

const RESULTS: usize = 3;

/// The napi crate's error for a status.
pub(crate) fn check(status: sys::napi_status, what: &str) -> napi::Result<()> {
    if status == sys::Status::napi_ok {
        return Ok(());
    }
    Err(napi::Error::new(napi::Status::from(status), format!("Node-API refused to {what}")))
}

/// The state of the calling environment.
pub(crate) fn state(env: &Env) -> napi::Result<&EnvState> {
    let mut data = ptr::null_mut();
    // SAFETY: a live environment on its own thread, and room for one pointer.
    let status = unsafe { sys::napi_get_instance_data(env.raw(), &mut data) };
    check(status, "find its state")?;
    // SAFETY: set once, in `init`, to a box that the environment's finalizer drops: it outlives every
    // call. Nobody has a mutable reference to it.
    unsafe { data.cast::<EnvState>().as_ref() }
        .ok_or_else(|| napi::Error::from_reason("the environment has no state"))
}

#[napi(module_exports)]
pub fn init(exports: Object, env: Env) -> napi::Result<()> {
    let raw = env.raw();
    let exports = exports.value().value;
    let mut data = ptr::null_mut();
    let mut buffer = ptr::null_mut();
    // SAFETY: a live environment; the two pointers are written once.
    let made = unsafe { sys::napi_create_arraybuffer(raw, RESULTS * 8, &mut data, &mut buffer) };
    check(made, "create the result buffer")?;
    let mut keep = ptr::null_mut();
    // SAFETY: `buffer` is a value of this scope. The reference is never deleted: it goes with the
    // environment.
    check(unsafe { sys::napi_create_reference(raw, buffer, 1, &mut keep) }, "keep a buffer")?;
    let kind = sys::TypedarrayType::float64_array;
    let mut results = ptr::null_mut();
    // SAFETY: a buffer of RESULTS * 8 bytes has room for RESULTS doubles from offset 0.
    let made = unsafe { sys::napi_create_typedarray(raw, kind, RESULTS, buffer, 0, &mut results) };
    check(made, "create the result array")?;
    // SAFETY: `exports` and `results` are values of this scope, the name ends with NUL.
    let set = unsafe { sys::napi_set_named_property(raw, exports, c"results".as_ptr(), results) };
    check(set, "export the result array")?;

    let state = Box::into_raw(Box::new(EnvState {
        segments: RefCell::new(Vec::new()),
        results: data.cast(),
        unless_taken: Cell::new(Unless::Keep),
        pause: Cell::new(ptr::null_mut()),
        wake: Cell::new(ptr::null_mut()),
        waiters: RefCell::new(HashMap::new()),
        inbox: Arc::default(),
    }));
    // SAFETY: `state` is a box given to the environment, and the finalizer takes it back.
    let status = unsafe {
        sys::napi_set_instance_data(raw, state.cast(), Some(drop_state), ptr::null_mut())
    };
    check(status, "keep its state")?;
    hot::register(raw, exports, state)
}

/// Runs after the cleanup hooks, when no JS of this environment can run any more.
unsafe extern "C" fn drop_state(_env: sys::napi_env, data: *mut c_void, _hint: *mut c_void) {
    // SAFETY: the box of `init`, handed back once.
    let state = unsafe { Box::from_raw(data.cast::<EnvState>()) };
    // As any next call would: no more are to come. (Node lets go of references after this: the results are there.)
    if state.take_word() {
        state.release_unless_taken();
    }
}
