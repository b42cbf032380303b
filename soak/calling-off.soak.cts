// Waits are called off at random instants, beside holders that come and go, until --seconds are over and
// 100,000 have been called off. At the end nothing has grown: no memory, threads, files, handles, listeners; every
// lock can be had, and the counts add up.
import { fork } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openManager } from 'robust-lock'
import { belongings, callOff } from '../__test__/fixtures/calling-off.cjs'
import { heapBytes } from '../__test__/fixtures/memory.cjs'
import { isWaitedFor } from '../__test__/fixtures/segment.cjs'
import { helpers } from '../__test__/fixtures/threads.cjs'
import { until } from '../__test__/fixtures/within.cjs'

const BATCH = 100_000
const LOCKS = 2
/** What V8 may keep of its own, whatever the number of waits. */
const SLACK_BYTES = 2e6

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string' } } })
const path = `/dev/shm/robust-lock-calling-off-${process.pid}`
process.once('exit', () => rmSync(path, { force: true }))

async function main(): Promise<void> {
  const manager = openManager({ path, mode: 'create', capacity: LOCKS })
  const lockers = Array.from({ length: LOCKS }, () => manager.allocateLock())
  const holders = [1, 2].map(() => fork(join(__dirname, 'fixtures', 'come-and-go.cjs'), [path]))
  await Promise.all(holders.map((holder) => new Promise((resolve) => holder.once('message', resolve))))
  await callOff(lockers, BATCH / 10)
  const before = JSON.stringify(belongings())
  const bytes = heapBytes()
  const rss = process.memoryUsage.rss()
  const all = { waits: 0, granted: 0, aborted: 0, timedOut: 0, listeners: 0 }
  const end = performance.now() + Number(values.seconds) * 1_000
  do {
    const fates = await callOff(lockers, BATCH)
    all.waits += BATCH
    for (const fate of ['granted', 'aborted', 'timedOut', 'listeners'] as const) all[fate] += fates[fate]
  } while (performance.now() < end || all.aborted + all.timedOut < BATCH)
  const grown = heapBytes() - bytes
  const after = JSON.stringify(belongings())
  await Promise.all(holders.map((holder) => new Promise((resolve) => holder.once('exit', resolve).kill('SIGKILL'))))
  const stuck = []
  for (const locker of lockers) {
    const guard = await locker.lock({ timeout: 10_000 }).catch(() => undefined)
    if (guard === undefined) stuck.push(locker.id)
    guard?.unlock()
    await until('the gates are open', () => !isWaitedFor(path, locker.id))
  }
  await until('the helpers have gone', () => helpers() === 0)
  const held = manager.locksHeld()
  const missing = all.waits - all.granted - all.aborted - all.timedOut
  console.log(`calling-off: ${all.waits} waits: ${all.granted} granted, ${all.aborted} aborted, ${all.timedOut} out of time, ${missing} unaccounted for, ${all.listeners} listeners left`)
  console.log(`calling-off: heap ${(grown / 1e3).toFixed(0)} kB more, RSS ${((process.memoryUsage.rss() - rss) / 1e6).toFixed(1)} MB; threads, files and handles before ${before}, after ${after}; ${held.length} locks held, ${stuck.length} stuck`)
  process.exit(missing + all.listeners + held.length + stuck.length === 0 && grown < SLACK_BYTES && before === after ? 0 : 1)
}

main().catch((error: unknown) => {
  console.log(`calling-off: FAILED: ${String(error)}`)
  process.exit(1)
})
