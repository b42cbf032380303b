import { AsyncResource } from 'node:async_hooks'
import { nextTick, now, setImmediate } from './clock.cjs'
import { EARLY, load, type Native } from './native.cjs'
import { LockState } from './queue.cjs'

/** The most that an event loop's turn may block for the sake of locks that it came too late for, in ms: waits are to delay
 * nothing by more than 10. */
const LONGEST_WAIT_IN_PLACE = 8
/** How long an early offer may be waited for, in ms. The same stands in crates/node/src/helper.rs. */
const EARLY_PATIENCE = 0.4

/** A segment as this thread has it: one object, however many managers. It lives as long as the thread. */
export class Segment {
  /** How many there are, of all segments; they keep the process alive, and nothing else of ours does. */
  readonly waits = pendingWaits
  readonly #states = new Map<number, LockState>()
  #warnedStale = false
  #warnedOf = 0

  constructor(
    readonly native: Native,
    readonly handle: number,
    readonly path: string,
  ) {}

  state(id: number): LockState {
    let state = this.#states.get(id)
    if (state === undefined) this.#states.set(id, (state = new LockState(this, id)))
    return state
  }

  states(): Iterable<LockState> {
    return this.#states.values()
  }

  /** For pending waits: the process does not end by itself now. */
  stayAlive(): void {
    if (callable) return this.native.keepAlive(true)
    outside.runInAsyncScope(() => this.native.keepAlive(true))
    callable = true
  }

  /** Tells once what is wrong: the segment's file is gone from under us, or an owner seems to be lost. */
  warn(): void {
    try {
      this.#warn()
    } catch {
      // The end of the stack: the next call tells. That must not cost this one what it has just been given.
    }
  }

  #warn(): void {
    const trouble = this.native.trouble(this.handle)
    if (trouble === 0) return
    const [id, tid = 0] = this.native.suspicion(this.handle) ?? []
    if (tid !== this.#warnedOf) {
      emitWarning(
        'ERR_ROBUST_LOCK_LOST_OWNER',
        `Lock ${id} of ${this.path} names thread ${tid} as its owner, which does not seem to be so: the owner has died without the kernel's release, and its number has been given again. That cannot be proven, so the lock is left as it is until that thread ends (ps -L -p shows its process).`,
      )
      this.#warnedOf = tid
    }
    if (this.#warnedStale || (trouble & 1) === 0) return
    emitWarning(
      'ERR_ROBUST_LOCK_STALE_SEGMENT',
      `The segment ${this.path} has been deleted while it is in use (systemd-logind does so at logout, unless RemoveIPC=no). Processes that start now make another one, and do not exclude this one.`,
    )
    this.#warnedStale = true
  }
}

/** Not from within a call: a program may have put a function of its own there, and what that throws must cost nobody a lock. */
function emitWarning(code: string, message: string): void {
  // A text: where tests run in a realm of their own, an Error of that one is none to Node.
  nextTick(() => process.emitWarning(message, { type: 'RobustLockWarning', code }))
}

/** By handle. A Worker has its own copy of this module, as it has its own handles. */
const segments: Segment[] = []
const pendingWaits = { pending: 0 }
/**
 * The first wait makes what helpers call, which lasts as long as the thread. Made in the context of that
 * wait it would keep that, a request's AsyncLocalStorage and all that hangs on it.
 */
const outside = new AsyncResource('robust-lock')
let callable = false
let lastWaitEnded = 0
/** What this turn of the loop has waited in place, in ms. */
let waited = 0
/** Of early offers one a turn of the loop is waited for: with more, each would wait for all the others'. */
let mayWait = true

function nextTurn(): void {
  waited = 0
  mayWait = true
}

/** This turn waits. Node may call `wake` many times a turn; immediates are called once, after it. */
function noteWait(): void {
  if (waited === 0 && mayWait) setImmediate(nextTurn).unref()
}

/**
 * Called when helpers have something to offer. All waits in place of a turn of the loop share one
 * budget: the lateness with which the turn began. Lateness that comes from such waits does not count.
 */
function wake(): void {
  const native = nativeModule()
  const offers = native.takeOffers()
  const sinceOwnWait = now() - lastWaitEnded
  const lateness = (i: number): number => Math.min(offers[i + 2] as number, sinceOwnWait)
  const late: LockState[] = []
  let latest = 0
  let early: LockState | undefined
  // Those that stand go first: none may run out while another lock is waited for in place.
  for (let i = 0; i < offers.length; i += 4) {
    const state = segments[offers[i] as number]?.state(offers[i + 1] as number)
    const instead = offers[i + 3] as number
    if (instead === EARLY && mayWait && early === undefined) early = state
    else if (state?.offered(instead) && lateness(i) > 0) {
      late.push(state)
      latest = Math.max(latest, lateness(i))
    }
  }
  if (early !== undefined) {
    noteWait()
    mayWait = false
    early.offered(EARLY, EARLY_PATIENCE)
  }
  let budget = Math.min(latest, LONGEST_WAIT_IN_PLACE - waited)
  for (const state of late) {
    const ms = state.waitInPlace(budget)
    if (ms > 0) {
      noteWait()
      budget -= ms
      waited += ms
      lastWaitEnded = now()
    }
  }
}

/** The native module, loaded when a manager is first opened. */
export function nativeModule(): Native {
  return load(() => {}, wake)
}

/** The segment of a handle that the native module has just given out. */
export function segmentOf(native: Native, handle: number, path: string): Segment {
  return (segments[handle] ??= new Segment(native, handle, path))
}

/** Looks at all of them: another one may have taken the place of one that was deleted. */
export function warnOfAny(): void {
  for (const segment of segments) segment.warn()
}
