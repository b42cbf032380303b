// The event loop's delay while it waits for many locks that another process wants as well, against that
// of an idle one.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { openManager } from '../../../dist/index.cjs'
import { serve, withChild } from '../child.mjs'
import { interleave } from '../measure.mjs'

export const name = 'loop'

const LOCKS = 64

/** A task a lock, each with the lock in hand for a turn of the event loop at a time, until the time is over. */
async function contend(path, ms) {
  const manager = openManager({ path })
  const end = performance.now() + ms
  let held = 0
  const task = async (id) => {
    const locker = manager.retrieveLock(id)
    while (performance.now() < end) {
      const guard = await locker.lock()
      await new Promise((resolve) => setTimeout(resolve, 1))
      guard.unlock()
      held++
    }
  }
  await Promise.all(Array.from({ length: LOCKS }, (_, id) => task(id)))
  return held
}

/** The delay's 99th percentile over so many ms, and what `work` came to meanwhile. */
async function delayOf(work) {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const result = await work()
  delay.disable()
  return { p99: delay.percentile(99), result }
}

export async function run(bench) {
  const path = bench.segment('loop')
  openManager({ path, mode: 'create', capacity: LOCKS })
  const ms = bench.quick ? 50 : 1_000
  const measured = await withChild(import.meta.url, (child) =>
    interleave(
      [
        () => delayOf(() => new Promise((resolve) => setTimeout(resolve, ms))),
        () => delayOf(async () => {
          const [held] = await Promise.all([contend(path, ms), child.ask({ path, ms })])
          return (held * 1_000) / ms
        }),
      ],
      Math.min(bench.rounds, 7),
    ),
  )
  const [idle, contended] = measured.map((rounds) => rounds.map(({ p99 }) => p99))
  bench.table({
    id: 'loop',
    title: 'event loop',
    figures: { 'delay, p99': 'ns', 'acquisitions/s': '/s' },
    rows: [
      { name: 'idle', figures: { 'delay, p99': idle } },
      { name: `${LOCKS} contended locks`, figures: { 'delay, p99': contended, 'acquisitions/s': measured[1].map(({ result }) => result) } },
      { name: 'the difference', figures: { 'delay, p99': contended.map((value, round) => value - idle[round]) }, aim: { most: 10e6, value: true } },
    ],
  })
}

await serve(import.meta.url, async ({ path, ms }) => ({ held: await contend(path, ms) }))
