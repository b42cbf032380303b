// One lock and one unlock, with nobody else about.
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Mutex } from 'async-mutex'
import Database from 'better-sqlite3'
import fsExt from 'fs-ext'
import fsNativeExtensions from 'fs-native-extensions'
import { open as openLmdb } from 'lmdb'
import lockfile from 'proper-lockfile'
import { openManager } from '../../dist/index.cjs'
import { race, report } from './measure.mjs'

/** A loop of a synchronous operation. */
const loop = (operation) => (count) => {
  for (let i = 0; i < count; i++) operation()
}

const asyncLoop = (operation) => async (count) => {
  for (let i = 0; i < count; i++) await operation()
}

export async function pairs(folder, floorPath, settings) {
  const floor = createRequire(import.meta.url)(floorPath)
  const path = `/dev/shm/robust-lock-benchmark-${process.pid}`
  const manager = openManager({ path, mode: 'create' })
  const locker = manager.allocateLock()
  const file = join(folder, 'file')
  writeFileSync(file, 'x')
  const fd = openSync(file, 'r+')
  mkdirSync(join(folder, 'lmdb'))
  const lmdb = openLmdb({ path: join(folder, 'lmdb'), noSync: true })
  const sqlite = new Database(join(folder, 'sqlite'))
  sqlite.pragma('journal_mode = WAL')
  const [begin, commit] = [sqlite.prepare('BEGIN IMMEDIATE'), sqlite.prepare('COMMIT')]
  const mutex = new Mutex()

  const floorPair = { name: 'floor: C, no guard', run: loop(() => { floor.lock(0); floor.unlock(0) }) }
  const ours = { name: 'lockSync, unlock', target: '≤ 1.5', run: loop(() => locker.lockSync().unlock()) }
  try {
    const sync = await race(
      [
        floorPair,
        ours,
        { name: 'tryLock, unlock', run: loop(() => locker.tryLock().unlock()) },
        { name: 'lockSync, dispose', target: '≤ 2', run: loop(() => locker.lockSync()[Symbol.dispose]()) },
        { name: 'withLockSync', target: '≤ 2', run: loop(() => locker.withLockSync(() => {})) },
      ],
      settings,
    )
    report('uncontended, sync', sync, floorPair.name)

    const floorAwait = { name: 'floor + await', run: asyncLoop(async () => { const held = await (floor.lock(0), undefined); floor.unlock(0); return held }) }
    const plainAwait = { name: 'lockSync + await', run: async (count) => { for (let i = 0; i < count; i++) { const guard = locker.lockSync(); await undefined; guard.unlock() } } }
    const bareAwait = { name: 'floor, one await', run: async (count) => { for (let i = 0; i < count; i++) { floor.lock(0); await undefined; floor.unlock(0) } } }
    const async = await race([bareAwait, floorAwait, plainAwait, { name: 'await lock(), unlock', target: '≤ 1.5', run: async (count) => { for (let i = 0; i < count; i++) (await locker.lock()).unlock() } }], settings)
    report('uncontended, async', async, bareAwait.name)

    report(
      'peers, sync',
      await race(
        [
          ours,
          { name: 'lmdb transactionSync', target: '≥ 10', run: loop(() => lmdb.transactionSync(() => {})) },
          { name: 'fs-ext flockSync', target: '≥ 10', run: loop(() => { fsExt.flockSync(fd, 'ex'); fsExt.flockSync(fd, 'un') }) },
          { name: 'fs-native-extensions', target: '≥ 10', run: loop(() => { fsNativeExtensions.tryLock(fd); fsNativeExtensions.unlock(fd) }) },
          { name: 'better-sqlite3 BEGIN IMMEDIATE', target: '≥ 10', run: loop(() => { begin.run(); commit.run() }) },
          { name: 'proper-lockfile', target: '≥ 10', run: loop(() => lockfile.lockSync(file)()) },
        ],
        settings,
      ),
      ours.name,
    )

    const flock = (how) => new Promise((resolve, reject) => fsExt.flock(fd, how, (error) => (error ? reject(error) : resolve())))
    const oursAsync = { name: 'await lock(), unlock', run: async (count) => { for (let i = 0; i < count; i++) (await locker.lock()).unlock() } }
    const contestants = [
      oursAsync,
      { name: 'fs-native-extensions waitForLock', target: '≥ 50', run: asyncLoop(async () => { await fsNativeExtensions.waitForLock(fd); fsNativeExtensions.unlock(fd) }) },
      { name: 'fs-ext flock', target: '≥ 50', run: asyncLoop(async () => { await flock('ex'); await flock('un') }) },
      { name: 'proper-lockfile', target: '≥ 50', run: asyncLoop(async () => (await lockfile.lock(file))()) },
      { name: 'async-mutex (one process)', target: '> 1', run: asyncLoop(async () => (await mutex.acquire())()) },
    ]
    if (globalThis.navigator?.locks !== undefined) contestants.push({ name: 'navigator.locks (one process)', target: '> 1', run: asyncLoop(() => navigator.locks.request('x', () => {})) })
    report('peers, async', await race(contestants, settings), oursAsync.name)
  } finally {
    sqlite.close()
    await lmdb.close()
    closeSync(fd)
    rmSync(path)
  }
}
