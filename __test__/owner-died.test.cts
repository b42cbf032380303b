// What `ownerDied` means, and how long it lasts: until somebody declares the data repaired.
import * as assert from 'uvu/assert'
import { openManager, type Guard, type Locker, type Manager, type OpenOptions } from 'robust-lock'
import { throws } from './fixtures/expect.cjs'
import { open, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer, type Peer } from './fixtures/peers.cjs'
import { suite, unique } from './fixtures/suite.cjs'

const test = suite('owner died')

interface Place {
  manager: Manager
  locker: Locker
  options: OpenOptions
}

function segment(): Place {
  const options = { name: unique(), capacity: 4 }
  const manager = openManager(options)
  return { manager, locker: manager.allocateLock(), options }
}

/** Lets a holder die inside its section. */
async function bereave({ locker, options }: Place, victim: Peer = new WorkerPeer()): Promise<void> {
  await open(victim, options)
  await take(victim, locker.id)
  await victim.kill()
}

/** A segment with a lock whose holder has died. */
async function bereaved(): Promise<Place> {
  const place = segment()
  await bereave(place)
  return place
}

/** What the next holder is told; it repairs nothing. */
function isTold(locker: Locker): boolean {
  const guard = locker.lockSync()
  guard.unlock()
  return guard.ownerDied
}

const thrown = new Error('thrown on purpose')

function expectThrown(error: unknown): void {
  assert.is(error, thrown)
}

const releases: Record<string, (locker: Locker) => unknown> = {
  'guard.unlock()': (locker) => locker.lockSync().unlock(),
  'locker.unlock()': async (locker) => {
    await locker.lock()
    locker.unlock()
  },
  'guard[Symbol.dispose]()': (locker) => locker.tryLock()?.[Symbol.dispose](),
  'guard[Symbol.asyncDispose]()': async (locker) => (await locker.lock())[Symbol.asyncDispose](),
  'the end of a using block': (locker) => {
    using guard = locker.lockSync()
    assert.is(guard.ownerDied, true)
  },
  'the end of an await using block': async (locker) => {
    await using guard = await locker.lock()
    assert.is(guard.ownerDied, true)
  },
  'a throw out of a using block': (locker) => {
    const section = (): void => {
      using _guard = locker.lockSync()
      throw thrown
    }
    try {
      section()
    } catch (error) {
      expectThrown(error)
    }
  },
  'a return of withLock': (locker) => locker.withLock(() => 1),
  'a throw in withLock': (locker) =>
    locker
      .withLock(async () => {
        await null
        throw thrown
      })
      .catch(expectThrown),
  'a return of withLockSync': (locker) => locker.withLockSync(() => 1),
  'a throw in withLockSync': (locker) => {
    try {
      locker.withLockSync(() => {
        throw thrown
      })
    } catch (error) {
      expectThrown(error)
    }
  },
}

test('no release takes it away, without markConsistent()', async () => {
  const { manager, locker } = await bereaved()
  for (const [title, releasing] of Object.entries(releases)) {
    await releasing(locker)
    assert.equal(manager.locksHeld(), [], `${title} releases`)
    assert.is(isTold(locker), true, `told after ${title}`)
  }
})

test('every way to acquire tells', async () => {
  const { locker } = await bereaved()
  const guards = [
    (): Guard | undefined => locker.tryLock(),
    (): Guard => locker.lockSync(),
    (): Guard => locker.lockSync({ timeout: 0 }),
    (): Promise<Guard> => locker.lock(),
    (): Promise<Guard> => locker.lock({ timeout: 0 }),
    (): Promise<Guard> => locker.withLock((guard) => guard),
    (): Guard => locker.withLockSync((guard) => guard),
  ]
  for (const acquire of guards) {
    const guard = await acquire()
    assert.is(guard?.ownerDied, true)
    guard?.[Symbol.dispose]()
  }
})

test('markConsistent() takes effect with the release, by whatever way', async () => {
  const place = await bereaved()
  const { locker } = place
  const repairs: ((guard: Guard) => unknown)[] = [
    (guard) => guard.unlock(),
    () => locker.unlock(),
    (guard) => guard[Symbol.dispose](),
    (guard) => guard[Symbol.asyncDispose](),
  ]
  for (const releasing of repairs) {
    const guard = locker.lockSync()
    assert.is(guard.ownerDied, true)
    guard.markConsistent()
    assert.is(guard.ownerDied, true, 'it tells what was, not what is')
    await releasing(guard)
    assert.is(isTold(locker), false)
    await bereave(place)
  }
  await locker.withLock((guard) => guard.markConsistent())
  assert.is(isTold(locker), false)
})

test('markConsistent(), then death before the release: told again', async () => {
  const place = await bereaved()
  for (const peer of [new WorkerPeer(), new ProcessPeer()]) {
    await open(peer, place.options)
    const { ownerDied } = await take(peer, place.locker.id)
    assert.is(ownerDied, true)
    await peer.run(({ guards }, id) => guards.get(id)?.markConsistent(), place.locker.id)
    await peer.kill()
    assert.is(isTold(place.locker), true)
  }
})

test('a second death, of the one who repairs: told again', async () => {
  const place = await bereaved()
  await bereave(place, new ProcessPeer())
  assert.is(isTold(place.locker), true)
})

test('a guard without it can be marked, to no effect', async () => {
  const place = segment()
  const { locker } = place
  const guard = locker.lockSync()
  guard.markConsistent()
  guard.unlock()
  assert.is(isTold(locker), false)
  const peer = new WorkerPeer()
  await open(peer, place.options)
  await take(peer, locker.id)
  await peer.run(({ guards }, id) => guards.get(id)?.markConsistent(), locker.id)
  await peer.kill()
  assert.is(isTold(locker), true, 'a mark is no release')
})

test('a guard that is released cannot be marked', async () => {
  const { locker } = await bereaved()
  const guard = locker.lockSync()
  guard.unlock()
  throws(() => guard.markConsistent(), 'ERR_ROBUST_LOCK_NOT_HELD')
  const next = locker.lockSync()
  throws(() => guard.markConsistent(), 'ERR_ROBUST_LOCK_NOT_HELD')
  next.unlock()
  assert.is(isTold(locker), true)
})

test('handed over inside a thread, the next task is told, until one repairs', async () => {
  const { locker } = await bereaved()
  const first = locker.lockSync()
  const waiting = [locker.lock(), locker.lock(), locker.lock()]
  first.unlock()
  const second = await (waiting[0] as Promise<Guard>)
  assert.is(second.ownerDied, true)
  assert.is(second.token, first.token + 1)
  second.markConsistent()
  second.unlock()
  const third = await (waiting[1] as Promise<Guard>)
  assert.is(third.ownerDied, false)
  third.unlock()
  const fourth = await (waiting[2] as Promise<Guard>)
  assert.is(fourth.ownerDied, false)
  fourth.unlock()
})

test('a holder that was handed the lock inside its thread dies like any other', async () => {
  const { locker, options } = segment()
  const peer = new ProcessPeer()
  await open(peer, options)
  await peer.run(async ({ locker, guards }, id) => {
    const first = locker(id).lockSync()
    const next = locker(id).lock()
    first.unlock()
    guards.set(id, await next)
  }, locker.id)
  await peer.kill()
  assert.is(isTold(locker), true)
})

test('an id that is allocated anew starts clean', async () => {
  const { manager, locker } = await bereaved()
  locker.free()
  assert.is(isTold(locker), true, 'a free alone changes nothing: the lock stays usable')
  const again = manager.allocateLock()
  assert.is(again.id, locker.id)
  assert.is(isTold(again), false)
  assert.is(isTold(locker), false)
})

test('a death in a section that a free and an allocation cut through is not told', async () => {
  const { manager, locker, options } = segment()
  const peer = new ProcessPeer()
  await open(peer, options)
  await take(peer, locker.id)
  locker.free()
  // By number: allocateLock would pass over an id that is held.
  const again = manager.allocateAndRetrieveLock(locker.id)
  await peer.kill()
  assert.is(isTold(again), false)
})

test('a death after free(), within the same section, is told to those who still use the id', async () => {
  const { locker, options } = segment()
  const peer = new ProcessPeer()
  await open(peer, options)
  await peer.run(({ locker, guards }, id) => {
    guards.set(id, locker(id).lockSync())
    locker(id).free()
  }, locker.id)
  await peer.kill()
  assert.is(isTold(locker), true)
})

test('locksHeld() names the living and consumes no death', async () => {
  const place = await bereaved()
  const { manager, locker } = place
  const other = manager.allocateLock()
  const peer = new ProcessPeer()
  await open(peer, place.options)
  await take(peer, other.id)
  for (let i = 0; i < 100; i++) assert.equal(manager.locksHeld(), [other.id])
  assert.equal(await peer.run(({ manager }) => manager.locksHeld()), [other.id])
  const guard = locker.lockSync()
  assert.equal(manager.locksHeld(), [locker.id, other.id])
  assert.is(guard.ownerDied, true)
  guard.unlock()
  await peer.kill()
  assert.equal(manager.locksHeld(), [])
  assert.is(isTold(other), true)
})

test('a failed try consumes no death either', async () => {
  const place = await bereaved()
  const peer = new ProcessPeer()
  await open(peer, place.options)
  await take(peer, place.locker.id)
  assert.is(place.locker.tryLock(), undefined)
  throws(() => place.locker.lockSync({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await peer.run(({ guards }, id) => guards.get(id)?.unlock(), place.locker.id)
  assert.is(isTold(place.locker), true)
})

test('the token grows over deaths, too', async () => {
  const place = segment()
  const before = place.locker.lockSync()
  before.unlock()
  await bereave(place)
  const after = place.locker.lockSync()
  assert.is(after.token, before.token + 2)
  after.unlock()
})

test.run()
