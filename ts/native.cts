import type * as Binding from './binding.cjs'
import { LockError, outOfRange, type LockErrorCode } from './errors.cjs'
import { loadModule } from './loader.cjs'

/**
 * What a call to the lock came to, unless all is well: then it is undefined, and if it has acquired the
 * lock its token is in `results`. The same numbers stand in crates/node/src/hot.rs.
 */
export const BUSY = 0
export const HANDED_OVER = 1
export const OWNER_DIED = 2
export const OWN = 4
export const TIMED_OUT = 5
export const TOO_MANY_HELD = 7
export const NOT_HELD = 8
export const FORKED = 9
export const BROKEN = 10
export const STALE = 12
export const EARLY = 13

// Places in `results`. The same stand in crates/node/src/lib.rs.
/** Not 0: the token of an acquisition. To be set to 0 when note of it is taken; if it is not, the next call lets go of it. */
export const TOKEN = 0
export const ERRNO = 1
/** In the same place: what `open` tells. */
export const CREATED = 1
export const STALE_SEEN = 2

type Operations = Pick<typeof Binding, { [K in keyof typeof Binding]: (typeof Binding)[K] extends (...args: never[]) => unknown ? K : never }[keyof typeof Binding]>

/** The native module: numbers in, numbers out. */
export interface Native extends Operations {
  /** What the last call left beside its verdict. */
  readonly results: Float64Array
  // The hot ones take a key, `segment * 2 ** 20 + id`: each argument costs.
  /** One try. */
  tryLock(key: number): number | undefined
  /** One try that does not overtake those who wait at the gate. */
  tryInTurn(key: number): number | undefined
  /** Blocks the thread. */
  lockSync(key: number): number | undefined
  /** Blocks the thread, for so many ms at most. */
  lockSyncFor(key: number, timeout: number): number | undefined
  /** Waits for the lock past the gate: blocks the thread until it is free, for so many ms at most. */
  tryFor(key: number, patience: number): number | undefined
  unlock(key: number): number | undefined
  /** Bit 0: the data is not repaired. Bit 1: hand over inside this thread if nobody stands at the gate. */
  unlockAs(key: number, flags: number): number | undefined
  /** Called once: what a blocking wait calls between its slices, and what helpers call. */
  start(pause: () => void, wake: () => void): void
}

let loaded: Native | undefined

/** The native module, loaded on first use: importing the package never throws. */
export function load(pause: () => void, wake: () => void): Native {
  if (loaded === undefined) {
    // A copy, which V8 keeps in its fast form: what C has filled with so many properties is a dictionary,
    // and each look into it a call.
    const module = { ...(loadModule() as Native) }
    module.start(pause, wake)
    loaded = module
  }
  return loaded
}

/** The Error for the refusal that the native module has just signalled. */
export function lastError(native: Native): Error {
  const reason = native.lastError()
  if (reason == null) return new Error('robust-lock: the native module refused without a reason')
  const { code, message, ...details } = reason
  if (code === 'ERR_OUT_OF_RANGE') return Object.assign(new RangeError(message), { code })
  return new LockError(code as LockErrorCode, message, details)
}

/** The Error for a verdict that is neither success nor contention. */
export function refusal(native: Native, verdict: number | undefined, id: number): Error {
  switch (verdict) {
    case OWN:
      return new LockError('ERR_ROBUST_LOCK_WOULD_DEADLOCK', `lock ${id} is held by this thread already: waiting for it would never end. Release it first, or use "await lock()" from another task`)
    case TIMED_OUT:
      return new LockError('ERR_ROBUST_LOCK_TIMEOUT', `lock ${id} did not become free in time: allow it more, or try again later`)
    case TOO_MANY_HELD:
      return new LockError('ERR_ROBUST_LOCK_TOO_MANY_HELD', `this thread holds 960 locks, the most that are safe if it dies; release some before it takes lock ${id}`)
    case NOT_HELD:
      return new LockError('ERR_ROBUST_LOCK_NOT_HELD', `lock ${id} is not held: lock it first, and unlock it once`)
    case FORKED:
      return new LockError('ERR_ROBUST_LOCK_FORKED', 'this process was forked from one that had robust-lock loaded; exec first')
    case BROKEN:
      return new LockError('ERR_ROBUST_LOCK_CORRUPT', `the mutex of lock ${id} is damaged; end all processes that use the segment and delete it`, { errno: native.results[ERRNO], syscall: 'pthread_mutex_lock' })
    default:
      return outOfRange('id', 'the id of a lock of this segment', id)
  }
}

/** A call that came back without having been answered. It cannot be, and if it could, nothing would be held. */
export function unanswered(id: number): Error {
  return new Error(`robust-lock: the native module gave no word of lock ${id}`)
}
