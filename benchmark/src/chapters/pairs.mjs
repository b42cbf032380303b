// One lock and one unlock that nobody else wants, blocking: against the floor, and the peers.
import { openManager } from '../../../dist/index.cjs'
import { loop, race } from '../measure.mjs'
import { FLOOR, OURS, peers } from '../peers.mjs'

export const name = 'pairs'

export async function run(bench) {
  const floor = bench.compile('floor', { module: true })
  const locker = openManager({ path: bench.segment('pairs'), mode: 'create' }).allocateLock()

  const rows = await race(
    [
      { name: 'floor', run: loop(() => { floor.lock(0); floor.unlock(0) }) },
      { name: 'floor, saying nothing', run: loop(() => { floor.lockMutely(0); floor.unlockMutely(0) }) },
      { name: '`lockSync`, `unlock`', aim: { most: 1.5 }, run: loop(() => locker.lockSync().unlock()) },
      { name: '`lockSync`, dispose', aim: { most: 2 }, run: loop(() => locker.lockSync()[Symbol.dispose]()) },
      { name: '`withLockSync`', aim: { most: 2 }, run: loop(() => locker.withLockSync(() => {})) },
      { name: '`tryLock`, `unlock`', run: loop(() => locker.tryLock().unlock()) },
    ],
    bench,
  )
  for (const row of rows.slice(1)) row.base = rows[0]
  bench.table({ id: 'pairs', title: 'uncontended, blocking', figures: { time: 'ns' }, rows })
  await compare(bench, floor, locker)
}

const OPERATIONS = {
  lmdb: { 'lmdb, `transactionSync` (empty)': 'sync', 'lmdb, `transactionSync` with a `put`': 'write' },
  'fs-ext': { 'fs-ext, `flockSync`': 'sync' },
  'fs-native-extensions': { 'fs-native-extensions, `waitForLockSync`': 'sync' },
  'better-sqlite3': { 'better-sqlite3, `BEGIN IMMEDIATE`': 'sync' },
  'proper-lockfile': { 'proper-lockfile, `lockSync`': 'sync' },
}

async function compare(bench, floor, locker) {
  const contestants = [{ name: `${OURS}, \`lockSync\``, run: loop(() => locker.lockSync().unlock()) }]
  const opened = []
  try {
    for (const [peer, operations] of Object.entries(OPERATIONS)) {
      try {
        const one = await peers[peer](bench.folder)
        opened.push(one)
        for (const [title, how] of Object.entries(operations)) contestants.push({ name: title, aim: { least: 10 }, run: loop(() => one[how](() => {})) })
      } catch (error) {
        bench.absent(peer, error)
      }
    }
    // So that it can be seen how much faster than a peer anything can be at all.
    contestants.push({ name: FLOOR, run: loop(() => { floor.lock(0); floor.unlock(0) }) })
    const rows = await race(contestants, bench)
    for (const row of rows.slice(1)) row.base = rows[0]
    bench.table({ id: 'peers-sync', title: 'peers, blocking', figures: { time: 'ns' }, rows })
  } finally {
    for (const one of opened) await one.close()
  }
}
