/// <reference lib="esnext.disposable" preserve="true" />
import { LockError } from './errors.cjs'
import type { LockState } from './queue.cjs'

/**
 * A lock in hand. Whoever has the guard is alone with what the lock protects, until `unlock()`, the
 * end of a `using` block, or the end of the thread.
 */
export class Guard {
  readonly #state: LockState

  /** The lock's id. */
  declare readonly id: number
  /**
   * A holder died inside its critical section, and nobody has declared the data repaired since. Look
   * at what the lock protects before you use it.
   */
  declare readonly ownerDied: boolean
  /**
   * Fencing token: larger than that of every earlier acquisition of this id, also across reboots. Send
   * it along with a write to a place that remembers the largest one it has seen, and let that refuse
   * smaller ones. (It starts at the segment's creation time in microseconds: setting the clock back
   * before a segment is made anew, or more than a million acquisitions a second on average, break it.)
   */
  declare readonly token: number

  /** @internal */
  constructor(state: LockState, id: number, ownerDied: boolean, token: number) {
    this.#state = state
    this.id = id
    this.ownerDied = ownerDied
    this.token = token
  }

  /**
   * Declares that the data is whole again. It takes effect when this guard is released: the next
   * holder is not told again. A guard that is released without it leaves `ownerDied` for the next one.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_NOT_HELD if the guard has been released.
   */
  markConsistent(): void {
    if (this.#state.token !== this.token) throw released(this)
    this.#state.unrepaired = false
  }

  /** @internal */
  get isHeld(): boolean {
    return this.#state.token === this.token
  }

  /**
   * Releases the lock; complete when it returns.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_NOT_HELD if the guard has been released already.
   */
  unlock(): void {
    if (this.#state.token !== this.token) throw released(this)
    this.#state.release()
  }

  /** Releases the lock if this guard has it still. */
  [Symbol.dispose](): void {
    if (this.#state.token === this.token) this.#state.release()
  }

  /** As `[Symbol.dispose]`: nothing is waited for. */
  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    return Promise.resolve()
  }
}

// No private method of the class: it would cost every guard a field.
function released(guard: Guard): LockError {
  return new LockError('ERR_ROBUST_LOCK_NOT_HELD', `the guard of lock ${guard.id} has been released already: unlock it once`)
}
