// Several locks at once: in id order, all or none.
import * as assert from 'uvu/assert'
import { openManager, type Locker, type Manager } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { suite, unique } from './fixtures/suite.cjs'

const test = suite('several')

function pool(count: number): { manager: Manager; lockers: Locker[]; name: string } {
  const name = unique()
  const manager = openManager({ name })
  return { manager, name, lockers: Array.from({ length: count }, () => manager.allocateLock()) }
}

test('they are taken once each, in id order, and released in the reverse order', async () => {
  const { manager, lockers } = pool(3)
  const [a, b, c] = lockers as [Locker, Locker, Locker]
  const guard = await manager.lockAll([c, a.id, b, c.id, a])
  assert.equal(guard.ids, [0, 1, 2])
  assert.equal(manager.locksHeld(), [0, 1, 2])
  assert.is(guard.ownerDied, false)
  const order: number[] = []
  const waits = lockers.map((locker) => locker.withLock(() => order.push(locker.id)))
  guard.unlock()
  await Promise.all(waits)
  assert.equal(order, [2, 1, 0])
  throws(() => guard.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  throws(() => guard.markConsistent(), 'ERR_ROBUST_LOCK_NOT_HELD')
  guard[Symbol.dispose]()
  assert.equal(manager.locksHeld(), [])
})

test('lockAllSync does the same, and `using` releases them', () => {
  const { manager, lockers } = pool(2)
  {
    using guard = manager.lockAllSync(lockers)
    assert.equal(guard.ids, [0, 1])
    assert.equal(manager.locksHeld(), [0, 1])
  }
  assert.equal(manager.locksHeld(), [])
  assert.equal(manager.lockAllSync([]).ids, [])
})

test('a single guard can be released by itself', async () => {
  const { manager, lockers } = pool(3)
  await using guard = await manager.lockAll(lockers)
  guard.guards[1]?.unlock()
  assert.equal(manager.locksHeld(), [0, 2])
})

test('a timeout is for all together, and releases what was taken', async () => {
  const { manager, lockers, name } = pool(3)
  const peer = new ProcessPeer()
  await open(peer, { name })
  await take(peer, 2)
  await rejects(manager.lockAll(lockers, { timeout: 20 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.equal(manager.locksHeld(), [2])
  throws(() => manager.lockAllSync(lockers, { timeout: 20 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await rejects(manager.lockAll(lockers, { timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.equal(manager.locksHeld(), [2])
  await release(peer, 2)
  manager.lockAllSync(lockers, { timeout: 0 }).unlock()
})

test('what the first lock has cost of the timeout is not there for the second', async () => {
  const { manager, lockers, name } = pool(3)
  const peer = new ProcessPeer()
  await open(peer, { name })
  for (const id of [0, 1, 2]) await take(peer, id)
  const order: string[] = []
  const all = rejects(manager.lockAll([0, 1], { timeout: 2_000 }), 'ERR_ROBUST_LOCK_TIMEOUT').then(() => order.push('all'))
  const later = rejects((lockers[2] as Locker).lock({ timeout: 2_800 }), 'ERR_ROBUST_LOCK_TIMEOUT').then(() => order.push('later'))
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  await release(peer, 0)
  await Promise.all([all, later])
  assert.equal(order, ['all', 'later'])
  assert.equal(manager.locksHeld(), [1, 2])
})

test('an abort between the last grant and its news rejects, and releases everything', async () => {
  const { manager, lockers } = pool(2)
  const controller = new AbortController()
  const one = manager.lockAll([0], { signal: controller.signal })
  assert.equal(manager.locksHeld(), [0])
  controller.abort('too late for the guard')
  assert.is(await one.catch((thrown: unknown) => thrown), 'too late for the guard')
  assert.equal(manager.locksHeld(), [])
  manager.lockAllSync(lockers).unlock()
})

test('an abort rejects with the reason, and releases what was taken', async () => {
  const { manager, lockers, name } = pool(3)
  const peer = new ProcessPeer()
  await open(peer, { name })
  await take(peer, 1)
  const reason = { why: 'not wanted' }
  const controller = new AbortController()
  const wait = manager.lockAll(lockers, { signal: controller.signal })
  await assertHeld(manager, [0, 1])
  controller.abort(reason)
  assert.is(await wait.catch((thrown: unknown) => thrown), reason)
  assert.equal(manager.locksHeld(), [1])
  const aborted = manager.lockAll([0], { signal: controller.signal })
  assert.is(await aborted.catch((thrown: unknown) => thrown), reason)
  assert.equal(manager.locksHeld(), [1])
})

async function assertHeld(manager: Manager, ids: number[]): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(manager.locksHeld(), ids)
}

test('one that this thread holds is a deadlock for lockAllSync, which keeps nothing', () => {
  const { manager, lockers } = pool(3)
  const held = lockers[2]?.lockSync()
  throws(() => manager.lockAllSync(lockers), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
  assert.equal(manager.locksHeld(), [2])
  held?.unlock()
})

test('a death behind any of them shows, and can be declared repaired for all', async () => {
  const { manager, lockers, name } = pool(2)
  const peer = new ProcessPeer()
  await open(peer, { name })
  await take(peer, 1)
  await peer.kill()
  const guard = await manager.lockAll(lockers)
  assert.is(guard.ownerDied, true)
  assert.equal(guard.guards.map(({ ownerDied }) => ownerDied), [false, true])
  guard.markConsistent()
  guard.unlock()
  const again = await manager.lockAll(lockers)
  assert.is(again.ownerDied, false)
  again.unlock()
})

test('a signal that is not of this realm does, as for a single lock', async () => {
  const { manager, lockers } = pool(2)
  const signal = Object.assign(new EventTarget(), { aborted: false, reason: undefined as unknown })
  ;(await manager.lockAll(lockers, { signal: signal as never })).unlock()
  const held = lockers[1]?.lockSync()
  const wait = manager.lockAll(lockers, { signal: signal as never })
  await assertHeld(manager, [0, 1])
  Object.assign(signal, { aborted: true, reason: 'not wanted' }).dispatchEvent(new Event('abort'))
  assert.is(await wait.catch((thrown: unknown) => thrown), 'not wanted')
  held?.unlock()
  assert.equal(manager.locksHeld(), [])
})

test('bad arguments', async () => {
  const { manager, lockers } = pool(1)
  const other = pool(1)
  await rejects(manager.lockAll(undefined as never), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.lockAll(5 as never), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.lockAll(['0'] as never), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.lockAll(other.lockers), 'ERR_INVALID_ARG_TYPE')
  await rejects(manager.lockAll([manager.capacity]), 'ERR_OUT_OF_RANGE')
  await rejects(manager.lockAll(lockers, { timeout: -1 }), 'ERR_OUT_OF_RANGE')
  await rejects(manager.lockAll(lockers, { timeout: NaN }), 'ERR_OUT_OF_RANGE')
  await rejects(manager.lockAll(lockers, 5 as never), 'ERR_INVALID_ARG_TYPE')
  throws(() => manager.lockAllSync([-1]), 'ERR_OUT_OF_RANGE')
  for (const timeout of ['500', 5n, Symbol('500'), null]) {
    for (const ids of [[0], []]) {
      await rejects(manager.lockAll(ids, { timeout } as never), 'ERR_INVALID_ARG_TYPE')
      throws(() => manager.lockAllSync(ids, { timeout } as never), 'ERR_INVALID_ARG_TYPE')
    }
  }
  await rejects(manager.lockAll([], { signal: 5 } as never), 'ERR_INVALID_ARG_TYPE')
  assert.equal(manager.locksHeld(), [])
  manager.close()
  await rejects(manager.lockAll(lockers), 'ERR_ROBUST_LOCK_CLOSED')
})

test('one that cannot be released keeps none of the others', () => {
  const { manager, lockers } = pool(3)
  const guard = manager.lockAllSync(lockers)
  const fails = (): never => {
    throw new Error('broken')
  }
  Object.defineProperty(guard.guards[1], Symbol.dispose, { value: fails })
  assert.throws(() => guard.unlock(), 'broken')
  assert.equal(manager.locksHeld(), [1])
  guard.guards[1]?.unlock()
})

test('markConsistent() of several leaves those out that were released one by one', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const ids = [0, 1, 2].map(() => manager.allocateLock().id)
  const peer = new ProcessPeer()
  await open(peer, options)
  for (const id of ids) await take(peer, id)
  await peer.kill()
  const all = manager.lockAllSync(ids)
  all.guards[1]?.unlock()
  all.markConsistent()
  all.unlock()
  assert.equal(ids.map((id) => manager.retrieveLock(id).lockSync().ownerDied), [false, true, false])
})

test.run()
