/// <reference lib="esnext.disposable" preserve="true" />
import { addAbortListener } from 'node:events'

/** What a signal calls off. */
export interface Cancellable {
  calledOff(reason: unknown): void
}

/**
 * All that waits for one signal's abort, behind one listener: with one each, Node looks through all of them for
 * each that is added or taken away, and Node 20 warns of a leak at the eleventh.
 */
class Waits {
  readonly waiting = new Set<Cancellable>()
  readonly listener: Disposable

  constructor(signal: AbortSignal) {
    // Not addEventListener: one that was added before may keep the event from all that come after it.
    this.listener = addAbortListener(signal, () => {
      for (const one of this.waiting) one.calledOff(signal.reason)
    })
  }
}

/**
 * The abort, if there has been one. Anything may pass for a signal: one that fails calls off what it was given
 * for, and nothing else.
 */
export function abortOf(signal: AbortSignal | undefined): { reason: unknown } | undefined {
  try {
    return signal?.aborted ? { reason: signal.reason } : undefined
  } catch (reason) {
    return { reason }
  }
}

const known = new WeakMap<AbortSignal, Waits>()

/** From now on the signal's abort calls it off. */
export function listen(signal: AbortSignal, one: Cancellable): void {
  let waits = known.get(signal)
  if (waits === undefined) {
    waits = new Waits(signal)
    known.set(signal, waits)
  }
  waits.waiting.add(one)
}

/** It does not any more. The last one takes the listener away. */
export function forget(signal: AbortSignal, one: Cancellable): void {
  const waits = known.get(signal)
  if (waits === undefined || !waits.waiting.delete(one) || waits.waiting.size > 0) return
  known.delete(signal)
  try {
    waits.listener[Symbol.dispose]()
  } catch {
    // Anything may pass for a signal; those who wait behind it have done nothing.
  }
}
