// What Podman's own tests assert of its lock managers, each with both hands in one thread, with a
// Worker as the other one, and with another process.
import * as assert from 'uvu/assert'
import { openManager, type Manager } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { here, type Party } from './fixtures/scope.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const ALL = 128

const allocate = (party: Party): Promise<number> => party.run(({ manager }) => manager.allocateLock().id)
const allocateGiven = (party: Party, id: number): Promise<number> =>
  party.run(({ manager }, id) => manager.allocateAndRetrieveLock(id).id, id)
const free = (party: Party, id: number): Promise<void> => party.run(({ manager }, id) => manager.retrieveLock(id).free(), id)
const freeAll = (party: Party): Promise<void> => party.run(({ manager }) => manager.freeAllLocks())
const available = (party: Party): Promise<number> => party.run(({ manager }) => manager.availableLocks())
const held = (party: Party): Promise<number[]> => party.run(({ manager }) => manager.locksHeld())

/** The suite, for an other hand of any kind. */
function podman(kind: string, another: () => Party): void {
  const test = suite(`podman, ${kind}`)

  /** A new segment that two hands have open. */
  async function both(capacity = ALL): Promise<{ one: Party; other: Party; manager: Manager }> {
    const options = { name: unique(), capacity }
    const one = here()
    const other = another()
    await open(one, options)
    await open(other, options)
    return { one, other, manager: one.scope.manager }
  }

  for (const capacity of [1, 2, 3, 7, 8, 31, 32]) {
    test(`a segment of ${capacity} locks`, async () => {
      const { one, other } = await both(capacity)
      const ids = []
      for (let i = 0; i < capacity; i++) ids.push(await allocate(i % 2 === 0 ? one : other))
      assert.equal(ids, [...Array(capacity).keys()])
      await rejects(allocate(other), 'ERR_ROBUST_LOCK_EXHAUSTED')
    })
  }

  test('none with 0 locks', () => {
    throws(() => openManager({ name: unique(), capacity: 0 }), 'ERR_OUT_OF_RANGE')
  })

  test('a lock that is not allocated is not freed', async () => {
    const { one, other } = await both()
    await rejects(free(other, 7), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
    const id = await allocate(one)
    await free(other, id)
    await rejects(free(one, id), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
  })

  test('a lock that is not held is not unlocked', async () => {
    const { one, other } = await both()
    const id = await allocate(one)
    await rejects(other.run(({ locker }, id) => locker(id).unlock(), id), 'ERR_ROBUST_LOCK_NOT_HELD')
  })

  test('the second unlock is refused, through locker and guard', async () => {
    const { one, other } = await both()
    const id = await allocate(one)
    await take(other, id)
    await other.run(({ locker }, id) => locker(id).unlock(), id)
    await rejects(other.run(({ locker }, id) => locker(id).unlock(), id), 'ERR_ROBUST_LOCK_NOT_HELD')
    await rejects(release(other, id), 'ERR_ROBUST_LOCK_NOT_HELD')
  })

  test('what one has locked the other does not unlock', async () => {
    const { one, other, manager } = await both()
    const id = await allocate(one)
    await take(other, id)
    throws(() => manager.retrieveLock(id).unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
    assert.equal(await held(one), [id], 'the refusal has changed nothing')
    await release(other, id)
  })

  test('allocate, lock, unlock and free', async () => {
    const { one, other } = await both()
    const id = await allocate(one)
    for (const party of [one, other]) {
      await take(party, id)
      assert.equal(await held(one), [id])
      assert.equal(await held(other), [id])
      await release(party, id)
      assert.equal(await held(one), [])
    }
    await free(other, id)
    assert.is(await available(one), ALL)
  })

  test('two allocations differ', async () => {
    const { one, other } = await both()
    assert.is.not(await allocate(one), await allocate(other))
  })

  test('all 128 are allocated, each once, and the 129th is refused', async () => {
    const { one, other } = await both()
    const ids = new Set<number>()
    for (let i = 0; i < ALL; i++) {
      ids.add(await allocate(i % 3 === 0 ? one : other))
      assert.is(await available(i % 2 === 0 ? one : other), ALL - 1 - i)
    }
    assert.is(ids.size, ALL)
    for (const party of [one, other]) {
      const error = await rejects(allocate(party), 'ERR_ROBUST_LOCK_EXHAUSTED')
      assert.is(error.capacity, ALL)
      assert.is(error.held, 0)
      assert.match(error.message, /\b128\b/)
    }
  })

  test('in a full segment the next allocation is the lock that was freed, for each', async () => {
    const { one, other } = await both()
    for (let i = 0; i < ALL; i++) await allocate(one)
    for (let id = 0; id < ALL; id++) {
      await free(id % 2 === 0 ? one : other, id)
      assert.is(await allocate(id % 3 === 0 ? one : other), id)
      await rejects(allocate(one), 'ERR_ROBUST_LOCK_EXHAUSTED')
    }
  })

  test('after all are freed the first allocation is that of the first time', async () => {
    const { one, other } = await both()
    const first = await allocate(one)
    await allocate(other)
    await freeAll(other)
    assert.is(await available(one), ALL)
    assert.is(await allocate(one), first)
  })

  test('the second locker comes after the first has let go', async () => {
    const { one, other, manager } = await both()
    const id = await allocate(one)
    const order: string[] = []
    await take(one, id)
    const second = take(other, id, 'async').then(() => order.push('second'))
    // In one thread it waits in a queue of its own, which nobody else sees.
    if (kind !== 'one thread') await until('the second one waits', () => isWaitedFor(manager.path, id))
    order.push('first lets go')
    await release(one, id)
    await second
    assert.equal(order, ['first lets go', 'second'])
    await release(other, id)
  })

  test('two locks are held at a time, and let go in any order', async () => {
    const { one, other } = await both()
    const [five, six] = [5, 6]
    for (const party of [one, other]) {
      await take(party, five)
      await take(party, six)
      assert.equal(await held(other), [five, six])
      await release(party, six)
      await new Promise((resolve) => setImmediate(resolve))
      assert.equal(await held(one), [five])
      await release(party, five)
    }
  })

  test('a folder that is not there', async () => {
    const { other } = await both()
    const options = { path: `/dev/shm/${unique()}/segment` }
    throws(() => openManager(options), 'ERR_ROBUST_LOCK_NOT_FOUND')
    await rejects(open(other, options), 'ERR_ROBUST_LOCK_NOT_FOUND')
  })

  test('a given id is allocated once', async () => {
    const { one, other } = await both()
    assert.is(await allocateGiven(one, 64), 64)
    for (const party of [one, other]) await rejects(allocateGiven(party, 64), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
    assert.is(await available(other), ALL - 1)
  })

  test('a given id is allocated again after it was freed', async () => {
    const { one, other } = await both()
    await allocateGiven(one, 64)
    await free(other, 64)
    assert.is(await allocateGiven(other, 64), 64)
  })

  test('a given id is allocated again after all were freed', async () => {
    const { one, other } = await both()
    await allocateGiven(one, 64)
    await freeAll(other)
    assert.is(await allocateGiven(other, 64), 64)
  })

  test('a lock that is retrieved is the same lock', async () => {
    const { one, other } = await both()
    const id = await allocate(one)
    await take(other, id)
    assert.is(await one.run(({ locker }, id) => locker(id).tryLock(), id), undefined)
    await release(other, id)
    await rejects(other.run(({ manager }) => manager.retrieveLock(128).id), 'ERR_OUT_OF_RANGE')
  })

  test('a freed lock stays usable, and is not handed out while it is held', async () => {
    const { one, other } = await both(2)
    const id = await allocate(one)
    await take(other, id)
    await free(one, id)
    assert.is(await allocate(one), 1, 'passed over')
    const error = await rejects(allocate(one), 'ERR_ROBUST_LOCK_EXHAUSTED')
    assert.is(error.held, 1)
    await release(other, id)
    assert.is(await allocate(one), id)
    await take(one, id)
    await release(one, id)
  })

  test.run()
}

podman('one thread', here)
podman('a Worker', () => new WorkerPeer())
podman('another process', () => new ProcessPeer())
