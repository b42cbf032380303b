// What many waits take: threads and memory of the process that waits, in the end state, with nothing granted. Memory of the
// process (it includes what V8 sets aside for itself, and rubbish), and what is reachable of its heap.
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { openManager } from '../../../dist/index.cjs'
import { serve, withChild } from '../child.mjs'

export const name = 'resources'

const CASES = [
  { name: '1,000 contended locks', locks: 1_000, tasks: 1 },
  { name: '10,000 waiters of one lock', locks: 1, tasks: 10_000 },
]

export async function run(bench) {
  const path = bench.segment('resources')
  const manager = openManager({ path, mode: 'create' })
  const guards = Array.from({ length: 900 }, () => manager.allocateLock().lockSync())
  const rows = CASES.map(({ name: title }) => ({ name: title, figures: { threads: [], memory: [], 'a wait': [], 'of it, the heap': [] } }))
  // A thread holds 960 locks at most: two processes share them.
  await withChild(import.meta.url, async (holder) => {
    await holder.ask({ path, hold: [900, 1_000] })
    for (let round = 0; round < Math.min(bench.rounds, 5); round++) {
      for (const [i, { locks, tasks }] of CASES.entries()) {
        const { threads, bytes, heap } = await withChild(import.meta.url, (child) => child.ask({ path, locks, tasks }))
        rows[i].figures.threads.push(threads)
        rows[i].figures.memory.push(bytes)
        rows[i].figures['a wait'].push(bytes / (locks * tasks))
        rows[i].figures['of it, the heap'].push(heap / (locks * tasks))
      }
    }
  })
  for (const guard of guards) guard.unlock()
  Object.assign(rows[1], { of: 'of it, the heap', aim: { most: 1024, value: true } })
  bench.table({ id: 'resources', title: 'waiting', figures: { threads: 'count', memory: 'bytes', 'a wait': 'bytes', 'of it, the heap': 'bytes' }, rows })
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')

function usage() {
  gc()
  const status = readFileSync('/proc/self/status', 'utf8')
  const field = (key) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(status)[1])
  return { threads: field('Threads'), bytes: field('VmRSS') * 1024, heap: process.memoryUsage().heapUsed }
}

await serve(import.meta.url, async ({ path, hold, locks, tasks }) => {
  const manager = openManager({ path })
  if (hold !== undefined) {
    for (let id = hold[0]; id < hold[1]; id++) manager.retrieveLock(id).lockSync()
    return {}
  }
  const lockers = Array.from({ length: locks }, (_, id) => manager.retrieveLock(id))
  const before = usage()
  for (const locker of lockers) for (let i = 0; i < tasks; i++) void locker.lock()
  // Time for all helpers to stand where they wait.
  await new Promise((resolve) => setTimeout(resolve, 300))
  const after = usage()
  return { threads: after.threads - before.threads, bytes: after.bytes - before.bytes, heap: after.heap - before.heap }
})
