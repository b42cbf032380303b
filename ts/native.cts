import { readFileSync } from 'node:fs'
import type * as Binding from './binding.cjs'
import { LockError, outOfRange, type LockErrorCode } from './errors.cjs'

/** What a call to the lock came to. The same numbers stand in crates/node/src/hot.rs. */
export const BUSY = 0
export const ACQUIRED = 1
export const OWNER_DIED = 2
export const RELEASED = 3
export const OWN = 4
export const TIMED_OUT = 5
export const TOO_MANY_HELD = 7
export const NOT_HELD = 8
export const FORKED = 9
export const BROKEN = 10
export const STALE = 12

/** Places in `results`. The same stand in crates/node/src/lib.rs. */
export const TOKEN = 0
export const ERRNO = 1
export const STALE_SEEN = 2

type Operations = Pick<typeof Binding, { [K in keyof typeof Binding]: (typeof Binding)[K] extends (...args: never[]) => unknown ? K : never }[keyof typeof Binding]>

/** The native module: numbers in, numbers out. */
export interface Native extends Operations {
  /** What the last call left beside its verdict. */
  readonly results: Float64Array
  // The hot ones take a key, `segment * 2 ** 20 + id`: each argument costs.
  /** One try. */
  tryLock(key: number): number
  /** One try that does not overtake those who wait at the gate. */
  tryInTurn(key: number): number
  /** Blocks the thread. Undefined: an exception is on its way. */
  lockSync(key: number): number | undefined
  /** Blocks the thread, for so many ms at most. */
  lockSyncFor(key: number, timeout: number): number | undefined
  unlock(key: number): number
  /** Bit 0: the data is not repaired. Bit 1: hand over inside this thread if nobody stands at the gate. */
  unlockAs(key: number, flags: number): number
  /** Called once: what a blocking wait calls between its slices, and what helpers call. */
  start(pause: () => void, wake: () => void): void
}

/** Each `require` with a literal name, so that bundlers see it. */
const packages: Record<string, () => unknown> = {
  'linux-x64-gnu': () => require('@robust-lock/linux-x64-gnu'),
  'linux-x64-musl': () => require('@robust-lock/linux-x64-musl'),
  'linux-arm64-gnu': () => require('@robust-lock/linux-arm64-gnu'),
  'linux-arm64-musl': () => require('@robust-lock/linux-arm64-musl'),
  'linux-arm-gnueabihf': () => require('@robust-lock/linux-arm-gnueabihf'),
  'linux-ppc64-gnu': () => require('@robust-lock/linux-ppc64-gnu'),
  'linux-riscv64-gnu': () => require('@robust-lock/linux-riscv64-gnu'),
  'linux-s390x-gnu': () => require('@robust-lock/linux-s390x-gnu'),
}

/** linux-x64-gnu and so on. The C library is the one that this process has mapped. */
function platformName(): string {
  const { platform, arch } = process
  if (platform !== 'linux') return `${platform}-${arch}`
  let musl = false
  try {
    musl = readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-')
  } catch {
    // Without /proc there is no opening a segment either; ERR_ROBUST_LOCK_NO_PROC will say so.
  }
  return `linux-${arch}-${musl ? 'musl' : arch === 'arm' ? 'gnueabihf' : 'gnu'}`
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException | undefined)?.code === 'MODULE_NOT_FOUND'
}

function find(name: string): unknown {
  const override = process.env['ROBUST_LOCK_NATIVE_PATH']
  if (override !== undefined && override !== '') return require(override)
  try {
    return packages[name]?.()
  } catch (error) {
    if (!isMissing(error)) throw error
  }
  // A build of this very tree.
  return require(`../robust-lock.${name}.node`)
}

let loaded: Native | undefined

/** The native module, loaded on first use: importing the package never throws. */
export function load(pause: () => void, wake: () => void): Native {
  if (loaded !== undefined) return loaded
  const name = platformName()
  if (!(name in packages)) {
    throw new LockError('ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM', `robust-lock works on Linux (x64, arm64, arm, ppc64, riscv64, s390x), not on ${name}`)
  }
  try {
    // A copy, which V8 keeps in its fast form: what C has filled with so many properties is a dictionary,
    // and each look into it a call.
    loaded = { ...(find(name) as Native) }
  } catch (cause) {
    if (!isMissing(cause)) throw cause
    const wanted = process.env['ROBUST_LOCK_NATIVE_PATH'] || `@robust-lock/${name}`
    throw new LockError(
      'ERR_ROBUST_LOCK_NO_PREBUILT',
      `The native module ${wanted} is not installed. Run "npm install --include=optional robust-lock" on this machine (a lock file that was made on another platform can lack it)`,
      { cause },
    )
  }
  loaded.start(pause, wake)
  return loaded
}

/** Whether `load` would find something, without loading it. */
export function isSupported(): boolean {
  try {
    const name = platformName()
    if (!(name in packages)) return false
    const override = process.env['ROBUST_LOCK_NATIVE_PATH']
    const wanted = override ? [override] : [`@robust-lock/${name}`, `../robust-lock.${name}.node`]
    return wanted.some((id) => {
      try {
        return require.resolve(id) !== ''
      } catch {
        return false
      }
    })
  } catch {
    return false
  }
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
      return new LockError('ERR_ROBUST_LOCK_TIMEOUT', `lock ${id} did not become free in time`)
    case TOO_MANY_HELD:
      return new LockError('ERR_ROBUST_LOCK_TOO_MANY_HELD', `this thread holds 960 locks, the most that are safe if it dies; release some before it takes lock ${id}`)
    case NOT_HELD:
      return new LockError('ERR_ROBUST_LOCK_NOT_HELD', `lock ${id} is not held`)
    case FORKED:
      return new LockError('ERR_ROBUST_LOCK_FORKED', 'this process was forked from one that had robust-lock loaded; exec first')
    case BROKEN:
      return new LockError('ERR_ROBUST_LOCK_CORRUPT', `the mutex of lock ${id} is damaged; end all processes that use the segment and delete it`, { errno: native.results[ERRNO] })
    default:
      return outOfRange('id', 'the id of a lock of this segment', id)
  }
}
