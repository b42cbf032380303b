// One lock and one unlock that nobody else wants, awaited: against the floor with one await, and the peers.
import { openManager } from '../../../dist/index.cjs'
import { asyncLoop, race } from '../measure.mjs'
import { OURS, peers } from '../peers.mjs'

export const name = 'async'

export async function run(bench) {
  const floor = bench.compile('floor', { module: true })
  const locker = openManager({ path: bench.segment('async'), mode: 'create' }).allocateLock()

  // Written out: each await counts here, and asyncLoop has one of its own.
  const ours = async (count) => {
    for (let i = 0; i < count; i++) (await locker.lock()).unlock()
  }
  const rows = await race(
    [
      { name: 'floor, one `await`', run: async (count) => { for (let i = 0; i < count; i++) { floor.lock(0); await undefined; floor.unlock(0) } } },
      { name: 'floor, saying nothing, one `await`', run: async (count) => { for (let i = 0; i < count; i++) { floor.lockMutely(0); await undefined; floor.unlockMutely(0) } } },
      { name: '`await lock()`, `unlock`', aim: { most: 1.5 }, run: ours },
      { name: '`await withLock()`', run: async (count) => { for (let i = 0; i < count; i++) await locker.withLock(() => {}) } },
      { name: '`lockSync`, one `await`, `unlock`', run: async (count) => { for (let i = 0; i < count; i++) { const guard = locker.lockSync(); await undefined; guard.unlock() } } },
    ],
    bench,
  )
  for (const row of rows.slice(1)) row.base = rows[0]
  bench.table({ id: 'async', title: 'uncontended, awaited', figures: { time: 'ns' }, rows })
  await compare(bench, ours)
}

const OPERATIONS = { 'fs-native-extensions': '`waitForLock`', 'fs-ext': '`flock`', 'proper-lockfile': '`lock`' }

/** Those that exclude nobody but the tasks of one process. */
const INSIDE = {
  'async-mutex': async () => {
    const { Mutex } = await import('async-mutex')
    const mutex = new Mutex()
    return async (count) => {
      for (let i = 0; i < count; i++) (await mutex.acquire())()
    }
  },
  'navigator.locks': async () => {
    if (globalThis.navigator?.locks === undefined) throw new Error(`Node ${process.version} has none; 24 has`)
    const lock = `robust-lock-benchmark-${process.pid}`
    return asyncLoop(() => navigator.locks.request(lock, () => {}))
  },
}

async function compare(bench, ours) {
  const contestants = [{ name: `${OURS}, \`lock\``, run: ours }]
  const opened = []
  try {
    for (const [peer, operation] of Object.entries(OPERATIONS)) {
      try {
        const one = await peers[peer](bench.folder)
        opened.push(one)
        contestants.push({ name: `${peer}, ${operation}`, aim: { least: 50 }, run: asyncLoop(() => one.async(() => {})) })
      } catch (error) {
        bench.absent(peer, error)
      }
    }
    for (const [peer, open] of Object.entries(INSIDE)) {
      try {
        contestants.push({ name: `${peer} (one process only)`, aim: { least: 1 }, run: await open() })
      } catch (error) {
        bench.absent(peer, error)
      }
    }
    const rows = await race(contestants, bench)
    for (const row of rows.slice(1)) row.base = rows[0]
    bench.table({ id: 'peers-async', title: 'peers, awaited', figures: { time: 'ns' }, rows })
  } finally {
    for (const one of opened) await one.close()
  }
}
