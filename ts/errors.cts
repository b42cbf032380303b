import { inspect } from 'node:util'

/** Every code of a {@link LockError}. README.md lists what each means. */
export type LockErrorCode =
  | 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED'
  | 'ERR_ROBUST_LOCK_CLOSED'
  | 'ERR_ROBUST_LOCK_CORRUPT'
  | 'ERR_ROBUST_LOCK_EXHAUSTED'
  | 'ERR_ROBUST_LOCK_EXISTS'
  | 'ERR_ROBUST_LOCK_FORKED'
  | 'ERR_ROBUST_LOCK_INCOMPATIBLE'
  | 'ERR_ROBUST_LOCK_NOT_ALLOCATED'
  | 'ERR_ROBUST_LOCK_NOT_FOUND'
  | 'ERR_ROBUST_LOCK_NOT_HELD'
  | 'ERR_ROBUST_LOCK_NOT_OWNER'
  | 'ERR_ROBUST_LOCK_NOT_ROBUST'
  | 'ERR_ROBUST_LOCK_NOT_TMPFS'
  | 'ERR_ROBUST_LOCK_NO_MEMORY'
  | 'ERR_ROBUST_LOCK_NO_PREBUILT'
  | 'ERR_ROBUST_LOCK_NO_PROC'
  | 'ERR_ROBUST_LOCK_NO_SPACE'
  | 'ERR_ROBUST_LOCK_PERMISSION'
  | 'ERR_ROBUST_LOCK_PID_NAMESPACE'
  | 'ERR_ROBUST_LOCK_STALE_HANDLE'
  | 'ERR_ROBUST_LOCK_STALLED'
  | 'ERR_ROBUST_LOCK_TIMEOUT'
  | 'ERR_ROBUST_LOCK_TOO_MANY_HELD'
  | 'ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM'
  | 'ERR_ROBUST_LOCK_WOULD_DEADLOCK'

/** What a {@link LockError} can carry beside its code. */
export interface LockErrorDetails {
  /** The system's error number, where a system call or a pthread call failed. */
  errno?: number | undefined
  /** The call that failed. */
  syscall?: string | undefined
  /** With ERR_ROBUST_LOCK_EXHAUSTED: how many locks can be allocated. */
  capacity?: number | undefined
  /** With ERR_ROBUST_LOCK_EXHAUSTED: how many ids are free, but held by somebody still. */
  held?: number | undefined
  cause?: unknown
}

/**
 * Every error of this library, apart from those for bad arguments: these are Node's own TypeError
 * (`ERR_INVALID_ARG_TYPE`) and RangeError (`ERR_OUT_OF_RANGE`).
 */
export class LockError extends Error {
  readonly code: LockErrorCode
  declare readonly errno?: number
  declare readonly syscall?: string
  declare readonly capacity?: number
  declare readonly held?: number

  /** @internal */
  constructor(code: LockErrorCode, message: string, details: LockErrorDetails = {}) {
    const { cause, ...rest } = details
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    for (const [key, value] of Object.entries(rest)) {
      if (value !== undefined) Object.defineProperty(this, key, { value, enumerable: true })
    }
  }

  static {
    Object.defineProperty(this.prototype, 'name', { value: 'LockError', configurable: true, writable: true })
  }
}

function received(value: unknown): string {
  if (value === null || value === undefined) return `Received ${String(value)}`
  if (typeof value === 'function') return `Received function ${value.name}`
  if (typeof value === 'object') return `Received an instance of ${value.constructor?.name ?? 'Object'}`
  if (typeof value === 'string') return `Received type string ('${value.slice(0, 25)}')`
  return `Received type ${typeof value} (${inspect(value)})`
}

/** As Node's own functions refuse an argument of the wrong type. */
export function invalidType(name: string, expected: string, value: unknown): TypeError {
  const error = new TypeError(`The "${name}" argument must be ${expected}. ${received(value)}`)
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' })
}

/** As Node's own functions refuse a value that is not one of those possible. */
export function outOfRange(name: string, range: string, value: unknown): RangeError {
  const shown = typeof value === 'string' ? `'${value}'` : String(value)
  const error = new RangeError(`The value of "${name}" is out of range. It must be ${range}. Received ${shown}`)
  return Object.assign(error, { code: 'ERR_OUT_OF_RANGE' })
}

/** An integer from `min` to `max`, or the error that Node would throw. */
export function checkInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== 'number') throw invalidType(name, 'of type number', value)
  if (!Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  if (value < min || value > max) throw outOfRange(name, `>= ${min} && <= ${max}`, value)
  return value
}

/** An object of options, or none. */
export function checkOptions(options: unknown): void {
  if (options !== undefined && (typeof options !== 'object' || options === null)) {
    throw invalidType('options', 'of type object', options)
  }
}
