/**
 * Ways to break what stands above the core: name, file, what stands there, what is put in its place, the suite
 * and the test that must fail.
 */
export const facade = [
  ['hand-over without a new record', 'ts/queue.cts', 'this.token = guard.token\n    this.unrepaired = ownerDied', 'if (this.token === 0) this.token = guard.token\n    this.unrepaired = ownerDied', 'exclusion', '10,000 tasks of one thread, first in, first out'],
  ['no answer is a yes', 'ts/queue.cts', 'if (results[UNCLAIMED] === 0) throw unanswered(this.id)\n    const guard', 'const guard', 'exclusion', 'a native call that comes back without an answer acquires nothing'],
  ['last in, first out', 'ts/queue.cts', 'task.previous = this.#last\n    if (this.#last === undefined) this.#first = task\n    else this.#last.next = task\n    this.#last = task', 'task.next = this.#first\n    if (this.#first === undefined) this.#last = task\n    else this.#first.previous = task\n    this.#first = task', 'exclusion', '10,000 tasks of one thread, first in, first out'],
  ['no helper after a failed try for an offer', 'ts/queue.cts', 'return !this.#tryForFirst() && this.#arm()', 'return !this.#tryForFirst() && false', 'waiting', 'a thread that comes too late for its turn, and finds the lock taken, waits again'],
  ['no stand-down when the queue is empty', 'ts/queue.cts', 'if (this.#first === undefined && this.#armed) this.#standDown()', '', 'abort', 'the place in the queue is gone while the lock is held still, and the helper with it'],
  ['no wait in place', 'ts/segment.cts', 'let budget = Math.min(latest / 5, LONGEST_WAIT_IN_PLACE)', 'let budget = 0', 'fairness', 'one whose event loop is late each time gets its turns beside three prompt ones'],
  ['a timeout for each of several', 'ts/several.cts', 'return () => Math.max(deadline - performance.now(), 0)', 'return () => timeout', 'several', 'what the first lock has cost of the timeout is not there for the second'],
  ['an abort after the last grant of several', 'ts/several.cts', 'if (signal?.aborted) throw signal.reason', '', 'several', 'an abort between the last grant and its news rejects, and releases everything'],
  ['no helper after an unlock', 'ts/queue.cts', 'this.token = 0\n    if (this.#first !== undefined) this.#arm()', 'this.token = 0', 'waiting', 'a task whose thread lets another process go first gets its turn after it'],
  ['a listener that stays', 'ts/queue.cts', "this.signal?.removeEventListener('abort', this)", '', 'abort', 'no listener is left, however the wait ends'],
  ['a timer that stays', 'ts/queue.cts', 'clearTimeout(this.#timer)', '', 'alive', 'a process whose waits were called off ends'],
  ['a long timer clamped to 1 ms', 'ts/queue.cts', 'Math.min(Math.max(Math.ceil(left), 1), LONGEST_TIMER)', 'Math.max(Math.ceil(left), 1)', 'waiting', 'long timeouts do not fire at once, nor warn'],
  ['no last try of a timeout', 'ts/queue.cts', '|| !this.#tryForFirst()) {', '|| true) {', 'waiting', 'a timeout that is noticed late makes a last try'],
  ['a timeout of 0 overtakes', 'ts/queue.cts', 'if (!this.isOwned && this.#first === undefined) {', 'if (!this.isOwned) {', 'waiting', 'a timeout of 0 does not overtake the tasks of its thread'],
  ['a pending wait keeps nobody alive', 'ts/queue.cts', 'if (waits.pending === 0) this.segment.stayAlive()', '', 'alive', 'a process with a pending lock() lives until it is granted'],
  ['released as if it were repaired', 'ts/queue.cts', 'this.#releaseAs((this.unrepaired ? 1 : 0) |', 'this.#releaseAs(0 |', 'owner-died', 'no release takes it away, without markConsistent()'],
  ['a hand-over does not tell', 'ts/queue.cts', 'this.#grant(verdict === OWNER_DIED)', 'this.#grant(false)', 'owner-died', 'handed over inside a thread, the next task is told, until one repairs'],
  ['markConsistent does nothing', 'ts/guard.cts', 'this.#state.unrepaired = false', '', 'owner-died', 'markConsistent() takes effect with the release, by whatever way'],
  ['a guard unlocks twice', 'ts/guard.cts', 'if (this.#state.token !== this.token) throw released(this)\n    this.#state.release()', 'this.#state.release()', 'errors', 'NOT_HELD and NOT_OWNER change nothing'],
  ['any Locker unlocks', 'ts/locker.cts', 'if (state.isOwned && state.ownerLocker === this) return state.release()', 'if (state.isOwned) return state.release()', 'errors', 'NOT_HELD and NOT_OWNER change nothing'],
  ['close() leaves waits behind', 'ts/manager.cts', 'if (task.locker.isOf(this.#pool)) {', 'if (false) {', 'abort', 'close() rejects what waits through this manager, and nothing else'],
  ["close() ends others' waits", 'ts/manager.cts', 'if (task.locker.isOf(this.#pool)) {', 'if (true) {', 'abort', 'close() rejects what waits through this manager, and nothing else'],
  ['an offer nobody answers is kept', 'crates/node/src/phase.rs', 'if self.is_offering() {\n            *self = Self::new();\n            return false;\n        }\n        true', 'true', 'phase', 'whatever_happens_somebody_waits_for_the_tasks'],
  ['an arm declines no offer', 'crates/node/src/phase.rs', 'Phase::Offering => self.answer(),\n            Phase::Queued', 'Phase::Offering => Then::Nothing,\n            Phase::Queued', 'phase', 'whatever_happens_somebody_waits_for_the_tasks'],
  ['a helper keeps its gate', 'crates/node/src/helper.rs', 'won.open_gate();', 'std::mem::forget(won);', 'exclusion', '8 processes and a counter in a file, sync and async mixed'],
  ['a helper owns main', 'crates/core/src/slot.rs', "// A real lock and unlock: it keeps the C library's chain of wake-ups whole.\n        self.slot.main.unlock();", '', 'alive', 'a process with a pending lock() lives until it is granted'],
  ['who is to stop enters', 'crates/core/src/slot.rs', 'if !go_on() {', 'if false {', 'terminate', 'a Worker blocked in lockSync is terminated in the very slice that brings the lock: nobody is told'],
  ['what JS took no note of is kept', 'crates/node/src/hot.rs', 'state.release_unclaimed();', '', 'faults', 'a tryLock() that the end of the stack cuts off keeps nothing'],
]
