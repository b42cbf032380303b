// What waiting costs the event loop: its delay (perf_hooks.monitorEventLoopDelay), a timer's lateness and
// fs.stat, idle and with 64, then 1,000 locks waited for, which others hold all the time or which come
// and go. And how soon locks that are let go are noticed among 1,000. Measured and printed, never
// asserted; --seconds are shared among the cases.
import { rmSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { openManager, type Guard, type Locker } from 'robust-lock'
import { open, release } from '../__test__/fixtures/jobs.cjs'
import { ProcessPeer, endPeers } from '../__test__/fixtures/peers.cjs'
import { helpers } from '../__test__/fixtures/threads.cjs'
import { quantile, sleep } from './fixtures/parties.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string' } } })
const CASES = 4
const LOCKS = 1_000
const path = `/dev/shm/robust-lock-soak-loop-${process.pid}`
process.once('exit', () => rmSync(path, { force: true }))
process.once('SIGINT', () => process.exit(1))
const manager = openManager({ path, mode: 'create', capacity: LOCKS })
const lockers = Array.from({ length: LOCKS }, () => manager.allocateLock())

const table = new Table({
  head: ['waited for', 'loop p50 ms', 'p99', 'longest', 'timer p99', 'fs.stat p50', 'p99', 'grants', 'helpers'],
  style: { head: [], border: [] },
  colAligns: ['left', ...Array<'right'>(8).fill('right')],
})

/** Measures the loop for a while; `waits` says how many grants there were. */
async function measure(name: string, grants: () => number): Promise<void> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  const [timers, stats]: [number[], number[]] = [[], []]
  const end = performance.now() + (Number(values.seconds) * 1_000) / CASES
  const before = grants()
  delay.enable()
  while (performance.now() < end) {
    const begun = performance.now()
    await sleep(2)
    const slept = performance.now()
    await stat('/dev/shm')
    timers.push(slept - begun - 2)
    stats.push(performance.now() - slept)
  }
  delay.disable()
  const ms = (ns: number): string => (ns / 1e6).toFixed(2)
  const of = (all: number[], share: number): string => quantile(all, share).toFixed(2)
  table.push([name, ms(delay.percentile(50)), ms(delay.percentile(99)), ms(delay.max), of(timers, 0.99), of(stats, 0.5), of(stats, 0.99), grants() - before, helpers()])
}

async function holder(from: number, to: number): Promise<ProcessPeer> {
  const peer = new ProcessPeer()
  await open(peer, { path })
  await peer.run(({ locker, guards }, [from = 0, to = 0]) => {
    for (let id = from; id < to; id++) guards.set(id, locker(id).lockSync())
  }, [from, to])
  return peer
}

let granted = 0
const count = (): number => granted

/** Waits for it again and again, until it is told to stop. */
async function keepTaking(locker: Locker, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const guard: Guard | undefined = await locker.lock({ signal }).catch(() => undefined)
    if (guard === undefined) return
    granted++
    await new Promise((resolve) => setImmediate(resolve))
    guard.unlock()
  }
}

async function main(): Promise<void> {
  await measure('nothing', count)

  const one = await holder(0, 64)
  const first = lockers.slice(0, 64).map((locker) => locker.lock())
  await sleep(200)
  await measure('64 locks, held', count)
  for (let id = 0; id < 64; id++) await release(one, id)
  for (const wait of first) (await wait).unlock()

  const abort = new AbortController()
  const takers = lockers.slice(0, 64).map((locker) => keepTaking(locker, abort.signal))
  one.launch(async ({ locker }) => {
    for (let round = 0; ; round++) {
      const guard = await locker(round % 64).lock()
      const end = performance.now() + 0.2
      while (performance.now() < end);
      guard.unlock()
    }
  })
  await measure('64 locks, coming and going', count)
  abort.abort()
  await Promise.all(takers)
  await one.kill()
  for (const locker of lockers.slice(0, 64)) {
    const guard = await locker.lock()
    guard.markConsistent()
    guard.unlock()
  }

  const two = [await holder(0, 500), await holder(500, LOCKS)] as const
  const all = lockers.map((locker) => locker.lock())
  await sleep(1_500)
  await measure('1,000 locks, held', count)
  const begun = performance.now()
  const some = [999, 998, 900, 750, 600, 501]
  await two[1].run(({ guards }, some) => some.forEach((id) => guards.get(id)?.unlock()), some)
  const noticed = await Promise.all(
    some.map(async (id) => {
      ;(await all[id])?.unlock()
      return performance.now() - begun
    }),
  )
  // Each as it comes: one thread may hold 960.
  const rest = all.map(async (wait, id) => {
    if (!some.includes(id)) (await wait).unlock()
  })
  await endPeers()
  await Promise.all(rest)
  console.log(table.toString())
  console.log(`event-loop: Node ${process.version}; six of 1,000 locks are let go while 64 helpers stand at others: the last is granted after ${Math.max(...noticed).toFixed(0)} ms`)
  process.exit(0)
}

main().catch((error: unknown) => {
  console.log(`event-loop: FAILED: ${String(error)}`)
  process.exit(1)
})
