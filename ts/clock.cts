import { performance } from 'node:perf_hooks'
import * as timers from 'node:timers'

// The clock and the timers as they are when this is loaded. A program's tests may put fakes in their place later:
// other processes' locks do not stand still for that, and a wait's time goes on.
export const { setTimeout, clearTimeout, setImmediate } = timers
export const nextTick: typeof process.nextTick = process.nextTick.bind(process)
export const now: () => number = performance.now.bind(performance)
