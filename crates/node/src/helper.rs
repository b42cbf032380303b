//! Helper threads: they wait for a lock in the place of a JS thread, and never own it for longer than
//! it takes to let go of it again.
//!
//! One [`Waiter`] per environment and lock, and at most one helper serves it; `phase` says when it does
//! what.
//!
//! If the process dies anywhere here, the helper's mutexes are released by the kernel, and it had
//! none that a user's data stood behind.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use napi::{Env, sys};
use robust_lock_core::{Lock, Refusal, monotonic_ns};

use crate::hot::{self, verdict};
use crate::phase::{Ended, Next, Phases, Then};
use crate::pool::POOL;
use crate::{EnvState, check};

/// How long a helper serves one lock while others wait for a helper.
const STINT_NS: u64 = 1_000_000_000;
/// How long an offer stands: halved by each miss, doubled by each hit.
const MOST_PATIENCE: Duration = Duration::from_millis(5);
const LEAST_PATIENCE: Duration = Duration::from_micros(300);
/// Who had main this soon after it had the gate gets an early offer the next time: holds are short, and
/// the JS thread may as well wait for main itself.
const SOON_NS: u64 = 400_000;
/// How long an early offer stands, and how long the JS thread waits for main then. The same stands in ts/segment.cts.
const EARLY_PATIENCE: Duration = Duration::from_micros(400);

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State {
    phases: Phases,
    patience: Duration,
    offered_ns: u64,
    /// The offer that stands, or stood, is an early one: main was not free yet.
    early: bool,
    /// When this helper had the gate.
    behind_ns: u64,
    /// The last turn came soon after it, and JS was there.
    soon: bool,
    failure: Option<Refusal>,
    /// The segment's file is deleted; None once JS has been told.
    stale: Option<bool>,
}

/// A lock that an environment waits for, or has waited for.
pub(crate) struct Waiter {
    lock: Lock,
    segment: u32,
    id: u32,
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The waiter of a lock, made when it is first needed.
pub(crate) fn waiter(state: &EnvState, segment: u32, id: u32) -> Option<Arc<Waiter>> {
    let lock = state.lock(segment, id)?;
    let mut waiters = state.waiters.borrow_mut();
    let waiter = waiters.entry((segment, id)).or_insert_with(|| {
        Arc::new(Waiter {
            lock,
            segment,
            id,
            inbox: Arc::clone(&state.inbox),
            state: Mutex::new(State {
                phases: Phases::new(),
                patience: MOST_PATIENCE,
                offered_ns: 0,
                early: false,
                behind_ns: 0,
                soon: false,
                failure: None,
                stale: Some(false),
            }),
            changed: Condvar::new(),
        })
    });
    Some(Arc::clone(waiter))
}

impl Waiter {
    /// Wants the lock. False if no helper can be had.
    pub(crate) fn want(self: &Arc<Self>) -> bool {
        let then = locked(&self.state).phases.want();
        self.follow(then)
    }

    /// The same, after a try. An offer that stands is declined by it.
    pub(crate) fn arm(self: &Arc<Self>) -> bool {
        let then = locked(&self.state).phases.arm();
        self.follow(then)
    }

    /// Wants it no more; whether it did.
    pub(crate) fn stand_down(self: &Arc<Self>) -> bool {
        let (wanted, then) = locked(&self.state).phases.stand_down();
        self.follow(then);
        wanted
    }

    fn follow(self: &Arc<Self>, then: Then) -> bool {
        match then {
            Then::Nothing => {}
            Then::Wake => self.changed.notify_all(),
            Then::Push => {
                if !POOL.push(Arc::clone(self)) {
                    let mut state = locked(&self.state);
                    state.phases.not_pushed();
                    // There was none, so JS is not late for it.
                    state.offered_ns = u64::MAX;
                    drop(state);
                    self.inbox.post(Arc::clone(self));
                    return false;
                }
            }
        }
        true
    }

    /// Whether its lock looks as if it could be had at once.
    pub(crate) fn looks_free(&self) -> bool {
        self.lock.looks_free()
    }

    fn has_ended(&self) -> bool {
        self.inbox.stopped.load(Ordering::Relaxed)
    }

    /// Asked between two slices of the wait.
    fn is_wanted(self: &Arc<Self>) -> bool {
        let mut state = locked(&self.state);
        if self.lock.is_troubled() && state.stale == Some(false) {
            state.stale = Some(true);
            self.inbox.post(Arc::clone(self));
        }
        state.phases.is_armed() && !self.has_ended()
    }

    /// What a helper does with it, until it is not wanted, or others have waited longer.
    pub(crate) fn serve(self: &Arc<Self>) {
        let begun = monotonic_ns();
        let others_wait = || monotonic_ns() - begun > STINT_NS && POOL.has_queue();
        // Kept after one offer of a free lock in vain. Only one: those who stand there would wait with this helper, for
        // as long as others are faster than its thread.
        let mut gate = None;
        loop {
            if gate.is_none() {
                let next = locked(&self.state).phases.next(self.has_ended(), others_wait());
                match next {
                    Next::Leave => return,
                    Next::Push => {
                        // There is a helper: this one.
                        POOL.push(Arc::clone(self));
                        return;
                    }
                    Next::Wait => {}
                }
            }
            let mut go_on = || self.is_wanted() && !others_wait();
            let has_kept = gate.is_some();
            let waited = match gate.take() {
                Some(gate) => self.lock.wait_again(gate, &mut go_on),
                None => self.lock.wait_for_turn(&mut go_on, &mut || self.offer_early()).map(Some),
            };
            match waited {
                Ok(Some(won)) => match self.offer(false) {
                    Ended::InVain if !has_kept && go_on() => gate = Some(won),
                    ended => {
                        won.open_gate();
                        if ended == Ended::Missed {
                            return;
                        }
                    }
                },
                Ok(None) | Err(Refusal::Stopped) => {}
                Err(refusal) => {
                    let mut state = locked(&self.state);
                    state.failure = Some(refusal);
                    state.phases.stand_down();
                    self.inbox.post(Arc::clone(self));
                }
            }
        }
    }

    /// Calls JS, with the gate ours, and waits for its answer. `early`: main is not free yet.
    fn offer(self: &Arc<Self>, early: bool) -> Ended {
        let mut state = locked(&self.state);
        if !state.phases.offer(self.has_ended()) {
            return Ended::Answered;
        }
        state.offered_ns = monotonic_ns();
        state.early = early;
        self.inbox.post(Arc::clone(self));
        let patience = if early { EARLY_PATIENCE } else { state.patience };
        let standing = |state: &mut State| state.phases.is_offering();
        let waited = self.changed.wait_timeout_while(state, patience, standing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let ended = state.phases.end_offer(early);
        if early {
            state.soon = ended == Ended::Answered;
        } else if ended == Ended::Missed {
            state.soon = false;
            state.patience = (state.patience / 2).max(LEAST_PATIENCE);
        } else {
            state.soon = state.offered_ns.saturating_sub(state.behind_ns) < SOON_NS;
            state.patience = (state.patience * 2).min(MOST_PATIENCE);
        }
        ended
    }

    /// The gate is ours, and main soon free, if this goes on as before: JS comes meanwhile, and waits for
    /// main itself. That saves the second of two threads that would have to wake up in a row. False: JS
    /// has the lock, or wants it no more.
    fn offer_early(self: &Arc<Self>) -> bool {
        let soon = {
            let mut state = locked(&self.state);
            if !state.phases.is_armed() || self.has_ended() {
                return false;
            }
            state.behind_ns = monotonic_ns();
            state.soon
        };
        !soon || self.offer(true) == Ended::InVain
    }
}

/// Node's handle for calls from other threads; usable from all of them by its contract.
struct Caller(sys::napi_threadsafe_function);

// SAFETY: napi_threadsafe_function is made to be called from any thread.
unsafe impl Send for Caller {}

/// What an environment's helpers tell it, over one threadsafe function.
#[derive(Default)]
pub(crate) struct Inbox {
    /// None before the first wait, and from the moment at which the environment ends.
    caller: Mutex<Option<Caller>>,
    offers: Mutex<Vec<Arc<Waiter>>>,
    /// A call is on its way: it will see everything that is posted before it takes.
    called: AtomicBool,
    stopped: AtomicBool,
}

impl Inbox {
    fn post(&self, waiter: Arc<Waiter>) {
        {
            let mut offers = locked(&self.offers);
            if self.stopped.load(Ordering::Relaxed) {
                // Nobody will take it, and it would keep this inbox, and itself, for ever.
                return;
            }
            offers.push(waiter);
        }
        if self.called.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(Caller(function)) = &*locked(&self.caller) {
            let mode = sys::ThreadsafeFunctionCallMode::nonblocking;
            // SAFETY: the environment has not ended: its hook takes the function out under this
            // mutex before Node deletes it. (The queue has no limit, so this fails only if that is about to
            // happen; and then `called` stays, as it must not be called again.)
            unsafe { sys::napi_call_threadsafe_function(*function, ptr::null_mut(), mode) };
        }
    }

    pub(crate) fn keep_alive(&self, env: &Env, on: bool) -> napi::Result<()> {
        let caller = locked(&self.caller);
        let Some(Caller(function)) = &*caller else { return Ok(()) };
        let status = if on {
            // SAFETY: a function of this environment, which is alive, and this is its thread.
            unsafe { sys::napi_ref_threadsafe_function(env.raw(), *function) }
        } else {
            // SAFETY: as above.
            unsafe { sys::napi_unref_threadsafe_function(env.raw(), *function) }
        };
        check(status, "keep the process alive")
    }
}

/// Makes the environment's threadsafe function, with the first wait. It keeps nothing alive by itself.
pub(crate) fn start_inbox(env: &Env, state: &EnvState) -> napi::Result<()> {
    if locked(&state.inbox.caller).is_some() {
        return Ok(());
    }
    let raw = env.raw();
    let (mut wake, mut name, mut function) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: `start` made the reference; if it did not, the value stays null and the creation fails.
    check(unsafe { sys::napi_get_reference_value(raw, state.wake.get(), &mut wake) }, "wake JS")?;
    let text = c"robust-lock";
    // SAFETY: eleven bytes of UTF-8.
    let made = unsafe { sys::napi_create_string_utf8(raw, text.as_ptr(), 11, &mut name) };
    check(made, "name a resource")?;
    // SAFETY: values of this scope; no queue limit, one thread's worth of use, no finalizer, no
    // context, and Node's own way to call a function without arguments.
    let made = unsafe {
        sys::napi_create_threadsafe_function(
            raw,
            wake,
            ptr::null_mut(),
            name,
            0,
            1,
            ptr::null_mut(),
            None,
            ptr::null_mut(),
            None,
            &mut function,
        )
    };
    check(made, "create a threadsafe function")?;
    // SAFETY: just made, on this thread.
    check(unsafe { sys::napi_unref_threadsafe_function(raw, function) }, "unref it")?;
    // Hooks run last in, first out: this one, registered after Node's own for the function, comes
    // before it, and no helper can be in a call when Node deletes it.
    let data = Arc::into_raw(Arc::clone(&state.inbox));
    // SAFETY: the hook takes the Arc back, once.
    let added = unsafe { sys::napi_add_env_cleanup_hook(raw, Some(stop), data.cast_mut().cast()) };
    check(added, "add a cleanup hook")?;
    *locked(&state.inbox.caller) = Some(Caller(function));
    Ok(())
}

/// The environment ends: its helpers find out by themselves, and nobody waits for them.
unsafe extern "C" fn stop(data: *mut std::ffi::c_void) {
    // SAFETY: the Arc that `start_inbox` gave away, taken back once.
    let inbox = unsafe { Arc::from_raw(data.cast::<Inbox>().cast_const()) };
    inbox.stopped.store(true, Ordering::Relaxed);
    *locked(&inbox.caller) = None;
    locked(&inbox.offers).clear();
}

/// Four numbers for each of what JS has to act on: see `takeOffers`. What a STALE stands for may be an offer all the same.
pub(crate) fn take_offers(env_state: &EnvState) -> Vec<f64> {
    let inbox = &env_state.inbox;
    // A swap: what was posted before a call that was saved is seen below. After a mere store it would
    // not have to be, and nobody would call again.
    inbox.called.swap(false, Ordering::AcqRel);
    let offers = std::mem::take(&mut *locked(&inbox.offers));
    let now = monotonic_ns();
    let tell = |waiter: Arc<Waiter>| {
        let mut state = locked(&waiter.state);
        let mut instead =
            state.failure.take().map_or(0, |refusal| hot::refused(env_state, refusal));
        let mut late_ns = 0;
        let missed = state.phases.take_missed();
        if state.phases.is_offering() {
            if instead == 0 && state.early {
                instead = verdict::EARLY;
            }
        } else if missed {
            late_ns = now.saturating_sub(state.offered_ns);
        } else if instead == 0 && state.stale != Some(true) {
            return None;
        }
        if state.stale == Some(true) && matches!(instead, 0 | verdict::EARLY) {
            state.stale = None;
            (instead, late_ns) = (verdict::STALE, 0);
        }
        let (segment, id) = (f64::from(waiter.segment), f64::from(waiter.id));
        Some([segment, id, late_ns as f64 / 1e6, f64::from(instead)])
    };
    offers.into_iter().filter_map(tell).flatten().collect()
}
