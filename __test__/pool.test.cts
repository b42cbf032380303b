// The pool of ids under several processes at once, and at its full size.
import { mkdirSync, readdirSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager, type Locker } from 'robust-lock'
import { throws } from './fixtures/expect.cjs'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'

const test = suite('pool')
const MOST = 2 ** 20

interface Task {
  name: string
  /** Whoever has an id has a file of its name here, made with O_EXCL. */
  owned: string
  rounds: number
}

/** Allocates and frees at random; whoever is given an id that somebody has finds the file there. */
function allocateAndFree({ lib, fs, open }: Scope, { name, owned, rounds }: Task): number {
  let [manager, exhausted] = [open({ name }), 0]
  const mine: { locker: Locker }[] = []
  const file = (id: number): string => `${owned}/${id}`
  const take = (): void => {
    const given = Math.random() < 0.3
    const locker = given ? manager.allocateAndRetrieveLock(Math.floor(Math.random() * manager.capacity)) : manager.allocateLock()
    // An id that is asked for is given though it is held still: its last owner is waited for.
    if (given) locker.lockSync().unlock()
    fs.closeSync(fs.openSync(file(locker.id), 'wx'))
    mine.push({ locker })
  }
  const give = (): void => {
    const [{ locker }] = mine.splice(Math.floor(Math.random() * mine.length), 1) as [(typeof mine)[0]]
    // Freed in its section, it belongs to its holder until it is let go.
    const guard = Math.random() < 0.5 ? locker.lockSync() : undefined
    if (guard === undefined) fs.unlinkSync(file(locker.id))
    locker.free()
    if (guard === undefined) return
    for (let spin = Math.random() * 2e4; spin > 0; spin--);
    fs.unlinkSync(file(locker.id))
    guard.unlock()
  }
  for (let round = 0; round < rounds; round++) {
    if (exhausted > 0 && round % 100 === 50) manager = lib.openManager({ name, capacity: manager.capacity + 1 })
    try {
      // It goes on until the pool is exhausted, and then at random.
      if (exhausted === 0 || mine.length === 0 || (mine.length < 16 && Math.random() < 0.55)) take()
      else give()
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ERR_ROBUST_LOCK_EXHAUSTED') exhausted++
      else if (code !== 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED') throw error
    }
  }
  while (mine.length > 0) give()
  return exhausted
}

test('processes and Workers allocate, free and grow at once: no id is given twice, and none is lost', async () => {
  const [name, owned] = [unique(), join(folder, unique())]
  mkdirSync(owned)
  const capacity = 20
  const manager = openManager({ name, capacity })
  const peers = [...Array.from({ length: 4 }, () => new ProcessPeer()), new WorkerPeer(), new WorkerPeer()]
  const exhausted = await Promise.all(peers.map((peer) => peer.run(allocateAndFree, { name, owned, rounds: 1_000 })))
  assert.ok(exhausted.every((times) => times > 0))
  assert.equal(readdirSync(owned), [])
  assert.is(manager.availableLocks(), manager.capacity)
  assert.ok(manager.capacity > capacity)
  assert.equal(manager.locksHeld(), [])
})

test('2**20 locks: every one is allocated, once, and the last one like the first', async () => {
  const { bavail, bsize } = statfsSync(folder)
  if (bavail * bsize < 512 * 2 ** 20) return notRun('2**20 locks', 'they take 256 MiB, and /dev/shm has not so much left')
  const options = { name: unique(), capacity: MOST }
  const manager = openManager(options)
  for (let id = 0; id < MOST; id++) if (manager.allocateLock().id !== id) assert.unreachable(`lock ${id}`)
  assert.is(manager.availableLocks(), 0)
  assert.is(throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED').capacity, MOST)
  const peer = new ProcessPeer()
  await open(peer, options)
  for (const id of [0, 63, 64, 4_095, 4_096, MOST / 2, MOST - 1]) {
    const [first, last] = await peer.run(({ manager }, id) => {
      const locker = manager.retrieveLock(id)
      locker.lockSync()
      locker.free()
      const held = (() => {
        try {
          return manager.allocateLock().id
        } catch (error) {
          return (error as { held: number }).held
        }
      })()
      locker.unlock()
      return [held, manager.allocateLock().id]
    }, id)
    assert.equal([first, last], [1, id], 'not while it is held; then the only one')
  }
  const some = [0, 12_345, MOST - 1]
  const guards = some.map((id) => manager.retrieveLock(id).lockSync())
  assert.equal(await peer.run(({ manager }) => manager.locksHeld()), some)
  for (const guard of guards) guard.unlock()
  manager.freeAllLocks()
  assert.is(manager.availableLocks(), MOST)
  assert.is(manager.allocateLock().id, 0)
})

test.run()
