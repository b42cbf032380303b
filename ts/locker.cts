import { LockError, checkOptions, invalidType, outOfRange } from './errors.cjs'
import type { Guard } from './guard.cjs'
import { lastError } from './native.cjs'
import type { LockState } from './queue.cjs'
import type { Segment } from './segment.cjs'

/** How long to wait for a lock. */
export interface WaitOptions {
  /**
   * In ms; Infinity, the default, for as long as it takes. 0 makes one try (`lock()`: none if a task
   * of this thread has the lock or awaits it). When it is over, the wait fails with ERR_ROBUST_LOCK_TIMEOUT.
   */
  timeout?: number | undefined
}

/** How long to wait for a lock, and what calls it off. */
export interface LockOptions extends WaitOptions {
  /** When it is aborted the wait ends at once, and the promise is rejected with `signal.reason`. */
  signal?: AbortSignal | undefined
}

/** In ms; Infinity if none was given. */
export function checkTimeout(options: WaitOptions | undefined): number {
  const timeout = options?.timeout
  if (timeout === undefined) return Infinity
  if (typeof timeout !== 'number') throw invalidType('options.timeout', 'of type number', timeout)
  if (!(timeout >= 0)) throw outOfRange('options.timeout', '>= 0', timeout)
  return timeout
}

export function checkSignal(options: LockOptions | undefined): AbortSignal | undefined {
  const signal: unknown = options?.signal
  if (signal === undefined) return undefined
  // By what it can do: one of another realm is no instance of this one's class.
  if (typeof signal === 'object' && signal !== null && 'aborted' in signal) {
    const { addEventListener, removeEventListener } = signal as Partial<AbortSignal>
    if (typeof addEventListener === 'function' && typeof removeEventListener === 'function') return signal as AbortSignal
  }
  throw invalidType('options.signal', 'an instance of AbortSignal', signal)
}

/** What a Locker knows of the manager that it was got from. */
export interface Pool {
  closed: boolean
}

/**
 * A lock by its id. Locker objects are cheap handles: any number of them, in any process, stand for
 * the same lock. Mutual exclusion holds between processes, between Worker threads, and between the
 * tasks of one thread. It is not reentrant: a task that awaits a lock which it holds itself waits for
 * ever, unless it has a timeout.
 */
export class Locker {
  readonly #state: LockState
  readonly #generation: number
  readonly #pool: Pool

  /** What a program keeps in its own database. */
  readonly id: number

  /** @internal */
  constructor(state: LockState, generation: number, pool: Pool) {
    this.id = state.id
    this.#state = state
    this.#generation = generation
    this.#pool = pool
  }

  /** @internal */
  isOf(pool: Pool): boolean {
    return this.#pool === pool
  }

  /** @internal */
  isIn(segment: Segment): boolean {
    return this.#state.segment === segment
  }

  #checkOpen(): void {
    if (this.#pool.closed) {
      throw new LockError('ERR_ROBUST_LOCK_CLOSED', `the manager that lock ${this.id} was got from is closed: open it again`)
    }
  }

  /**
   * Waits for the lock without blocking the event loop. A pending wait keeps the process alive. In
   * contention the last of a wait may be spent on this thread: 0.4 ms a turn of the loop where holds are
   * short, and where the loop is late as long as that, 8 ms at most.
   *
   * @throws {LockError} as a rejection: ERR_ROBUST_LOCK_TIMEOUT, ERR_ROBUST_LOCK_CLOSED (the manager
   * is closed while it waits), ERR_ROBUST_LOCK_TOO_MANY_HELD. An abort rejects with `signal.reason`.
   * @example
   * const guard = await locker.lock({ timeout: 5_000 })
   * try { await work() } finally { guard.unlock() }
   */
  lock(options?: LockOptions): Promise<Guard> {
    // What the common call does not need stands elsewhere: the compiler inlines this one whole then.
    if (options !== undefined) return this.#lockWith(options)
    try {
      this.#checkOpen()
      return this.#state.lock(this, undefined, Infinity)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #lockWith(options: LockOptions): Promise<Guard> {
    try {
      checkOptions(options)
      const signal = checkSignal(options)
      const timeout = checkTimeout(options)
      this.#checkOpen()
      // eslint-disable-next-line prefer-promise-reject-errors -- an abort's reason may be anything
      if (signal?.aborted) return Promise.reject(signal.reason)
      return this.#state.lock(this, signal, timeout)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Blocks this thread until it has the lock. It may overtake the tasks of its own thread that await
   * it.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_WOULD_DEADLOCK at once if this thread holds it,
   * ERR_ROBUST_LOCK_TIMEOUT, ERR_ROBUST_LOCK_TOO_MANY_HELD.
   * @example
   * using guard = locker.lockSync()
   */
  lockSync(options?: WaitOptions): Guard {
    if (options !== undefined) checkOptions(options)
    const timeout = options === undefined ? Infinity : checkTimeout(options)
    this.#checkOpen()
    return this.#state.lockSync(this, timeout)
  }

  /**
   * Takes the lock if nobody holds it, this thread included, and does not wait: undefined if it is
   * held. It overtakes those who wait. (A helper thread holds a free lock for an instant, to find that it is
   * free: undefined then, although nobody is inside.)
   *
   * @throws {LockError} ERR_ROBUST_LOCK_TOO_MANY_HELD.
   */
  tryLock(): Guard | undefined {
    this.#checkOpen()
    return this.#state.tryLock(this)
  }

  /**
   * Runs `fn` with the lock held, and releases it when `fn` has returned, settled or thrown.
   *
   * @throws what `lock` rejects with, and what `fn` throws.
   * @example
   * const total = await locker.withLock(async (guard) => {
   *   if (guard.ownerDied) { await repair(); guard.markConsistent() }
   *   return add()
   * })
   */
  async withLock<T>(fn: (guard: Guard) => T | PromiseLike<T>, options?: LockOptions): Promise<T> {
    if (typeof fn !== 'function') throw invalidType('fn', 'of type function', fn)
    const guard = await this.lock(options)
    try {
      return await fn(guard)
    } finally {
      guard[Symbol.dispose]()
    }
  }

  /**
   * As `withLock`, blocking this thread. The lock is released when `fn` returns: what an async function
   * does after its first `await` is not protected.
   *
   * @throws what `lockSync` throws, and what `fn` throws.
   */
  withLockSync<T>(fn: (guard: Guard) => T, options?: WaitOptions): T {
    if (typeof fn !== 'function') throw invalidType('fn', 'of type function', fn)
    const guard = this.lockSync(options)
    try {
      return fn(guard)
    } finally {
      guard[Symbol.dispose]()
    }
  }

  /**
   * Releases what this Locker object acquired. It works after the manager is closed, too.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_NOT_HELD if nobody holds the lock, ERR_ROBUST_LOCK_NOT_OWNER if
   * it is held, but not through this object; nothing is changed then.
   */
  unlock(): void {
    const state = this.#state
    if (state.isOwned && state.ownerLocker === this) return state.release()
    if (state.isOwned || state.segment.native.isHeld(state.segment.handle, this.id)) {
      throw new LockError('ERR_ROBUST_LOCK_NOT_OWNER', `lock ${this.id} is held, but was not acquired through this Locker: release it through its guard, or the Locker that has it`)
    }
    throw new LockError('ERR_ROBUST_LOCK_NOT_HELD', `lock ${this.id} is not held: lock it first, and unlock it once`)
  }

  /**
   * Gives the id back to the pool. The lock itself stays usable, and whoever holds it holds it: the id
   * is not handed out again by `allocateLock` before it is let go. So freeing inside the critical
   * section, then unlocking, is an ordinary way to use it.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_NOT_ALLOCATED if the id is free; ERR_ROBUST_LOCK_STALE_HANDLE if
   * it has been freed and allocated anew since this Locker was made. (A free and a new allocation that
   * fall together between the look and the freeing, a few instructions, are not noticed.)
   */
  free(): void {
    this.#checkOpen()
    const { native, handle } = this.#state.segment
    if (!native.free(handle, this.id, this.#generation)) throw lastError(native)
    this.#state.segment.warn()
  }
}
