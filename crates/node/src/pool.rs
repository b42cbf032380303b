//! The helper threads of this process, for all its environments: 64 at most, gone after idling. What
//! they do for a waiter stands in `helper`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use robust_lock_core::block_signals;

use crate::helper::{Waiter, locked};

const MAX_HELPERS: usize = 64;
const STACK_BYTES: usize = 128 << 10;
/// How long a helper without work stays.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) struct Pool {
    work: Mutex<Work>,
    arrived: Condvar,
}

struct Work {
    queue: VecDeque<Arc<Waiter>>,
    threads: usize,
    idle: usize,
    picks: u32,
}

impl Work {
    /// The one that waits longest; but every second time one whose lock looks free, wherever it stands.
    /// So a lock that has been let go is noticed within a stint or two, however many are waited for.
    fn take(&mut self) -> Option<Arc<Waiter>> {
        self.picks = self.picks.wrapping_add(1);
        let free = (self.picks.is_multiple_of(2) && self.queue.len() > 1)
            .then(|| self.queue.iter().position(|waiter| waiter.looks_free()))
            .flatten();
        self.queue.remove(free.unwrap_or(0))
    }
}

pub(crate) static POOL: Pool = Pool {
    work: Mutex::new(Work { queue: VecDeque::new(), threads: 0, idle: 0, picks: 0 }),
    arrived: Condvar::new(),
};

/// How many helpers there are now.
pub(crate) fn threads() -> u32 {
    locked(&POOL.work).threads as u32
}

impl Pool {
    pub(crate) fn has_queue(&self) -> bool {
        !locked(&self.work).queue.is_empty()
    }

    /// False if there is no helper and none can be started.
    pub(crate) fn push(&self, waiter: Arc<Waiter>) -> bool {
        let mut work = locked(&self.work);
        work.queue.push_back(waiter);
        if work.queue.len() > work.idle && work.threads < MAX_HELPERS {
            let name = "robust-lock".to_owned();
            let builder = std::thread::Builder::new().name(name).stack_size(STACK_BYTES);
            if builder.spawn(|| POOL.run()).is_ok() {
                work.threads += 1;
            } else if work.threads == 0 {
                work.queue.pop_back();
                return false;
            }
        }
        self.arrived.notify_one();
        true
    }

    fn run(&self) {
        block_signals();
        while let Some(waiter) = self.next() {
            waiter.serve();
        }
    }

    fn next(&self) -> Option<Arc<Waiter>> {
        let mut work = locked(&self.work);
        work.idle += 1;
        let empty = |work: &mut Work| work.queue.is_empty();
        let waited = self.arrived.wait_timeout_while(work, LINGER, empty);
        (work, _) = waited.unwrap_or_else(PoisonError::into_inner);
        work.idle -= 1;
        let waiter = work.take();
        if waiter.is_none() {
            work.threads -= 1;
        }
        waiter
    }
}
