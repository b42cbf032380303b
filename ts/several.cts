/// <reference lib="esnext.disposable" preserve="true" />
import { now } from './clock.cjs'
import { LockError, invalidType } from './errors.cjs'
import type { Guard } from './guard.cjs'
import { checkSignal, checkTimeout, type LockOptions, type Locker, type WaitOptions } from './locker.cjs'

/** Several locks in hand: released together, in the reverse order. */
export class MultiGuard {
  #released = false

  /** The single guards, in id order. Each can be asked, declared consistent, and released by itself. */
  readonly guards: readonly Guard[]

  /** @internal */
  constructor(guards: readonly Guard[]) {
    this.guards = guards
  }

  /** The ids, in order. */
  get ids(): number[] {
    return this.guards.map((guard) => guard.id)
  }

  /** Whether a holder of any of them died inside its critical section. */
  get ownerDied(): boolean {
    return this.guards.some((guard) => guard.ownerDied)
  }

  /** Declares that what all of them protect is whole again, those apart that were released one by one. */
  markConsistent(): void {
    this.#checkHeld()
    for (const guard of this.guards) if (guard.isHeld) guard.markConsistent()
  }

  /**
   * Releases those that have not been released one by one.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_NOT_HELD at the second call.
   */
  unlock(): void {
    this.#checkHeld()
    this[Symbol.dispose]()
  }

  [Symbol.dispose](): void {
    this.#released = true
    release(this.guards)
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]()
    return Promise.resolve()
  }

  #checkHeld(): void {
    if (this.#released) throw new LockError('ERR_ROBUST_LOCK_NOT_HELD', `the guard of locks ${this.ids.join(', ')} has been released already: unlock it once`)
  }
}

/** Each is tried, whatever becomes of the others; the first failure is told. */
function release(guards: readonly Guard[]): void {
  let failed: { error: unknown } | undefined
  for (const guard of guards.toReversed()) {
    try {
      guard[Symbol.dispose]()
    } catch (error) {
      failed ??= { error }
    }
  }
  if (failed !== undefined) throw failed.error
}

/**
 * One Locker an id, in id order: whoever takes several locks takes them in the same order as everybody
 * else, so no circle of waiters comes about.
 */
export function inOrder(given: unknown, toLocker: (given: unknown) => Locker): Locker[] {
  if (given === null || given === undefined || typeof (given as Iterable<unknown>)[Symbol.iterator] !== 'function' || typeof given === 'string') {
    throw invalidType('lockers', 'an iterable of Lockers or ids', given)
  }
  const byId = new Map<number, Locker>()
  for (const one of given as Iterable<unknown>) {
    const locker = toLocker(one)
    if (!byId.has(locker.id)) byId.set(locker.id, locker)
  }
  return [...byId.values()].toSorted((a, b) => a.id - b.id)
}

/** What is left of a timeout for all of them together. */
function countdown(options: WaitOptions | undefined): () => number {
  const timeout = checkTimeout(options)
  // 0 makes one try of each, however long the first ones take.
  if (timeout === 0) return () => 0
  const deadline = now() + timeout
  return () => Math.max(deadline - now(), 0)
}

/** All of them, or none. */
export async function lockAll(lockers: readonly Locker[], options?: LockOptions): Promise<MultiGuard> {
  const guards: Guard[] = []
  const signal = checkSignal(options)
  const left = countdown(options)
  try {
    for (const locker of lockers) guards.push(await locker.lock({ signal, timeout: left() }))
    // An abort between the last grant and here would find nobody to tell.
    if (signal?.aborted) throw signal.reason
    return new MultiGuard(guards)
  } catch (error) {
    release(guards)
    throw error
  }
}

/** All of them, or none, blocking the thread. */
export function lockAllSync(lockers: readonly Locker[], options?: WaitOptions): MultiGuard {
  const guards: Guard[] = []
  const left = countdown(options)
  try {
    for (const locker of lockers) guards.push(locker.lockSync({ timeout: left() }))
    return new MultiGuard(guards)
  } catch (error) {
    release(guards)
    throw error
  }
}
