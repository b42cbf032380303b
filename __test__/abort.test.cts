// Waits that are called off: by a signal, or by closing the manager.
import { getEventListeners } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager, type Guard, type LockError } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { release } from './fixtures/jobs.cjs'
import { heldElsewhere, isFree, segment } from './fixtures/place.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite } from './fixtures/suite.cjs'
import { helpers } from './fixtures/threads.cjs'
import { until, within } from './fixtures/within.cjs'

const test = suite('abort')

/** What the promise is rejected with, whatever it is. */
async function reasonOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (reason) {
    return reason
  }
  throw new Error('the promise was fulfilled')
}

const listeners = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length

const reasons: unknown[] = [undefined, null, 0, 'text', new Error('own'), { any: 'thing' }]

test('a wait that is called off, or whose manager is closed, rejects within the turn of the loop', async () => {
  const place = segment()
  const holder = await heldElsewhere(place)
  const second = openManager(place.options)
  const controller = new AbortController()
  const ends: [string, () => void, Promise<unknown>][] = [
    ['abort', () => controller.abort(), place.locker.lock({ signal: controller.signal })],
    ['close', () => second.close(), second.retrieveLock(place.locker.id).lock()],
  ]
  for (const [name, end, wait] of ends) {
    let over = false
    void wait.catch(() => (over = true))
    await until('it waits', () => isWaitedFor(place.manager.path, place.locker.id))
    end()
    assert.is(over, false, `${name}: not at once`)
    await turn()
    assert.is(over, true, name)
  }
  await release(holder, place.locker.id)
})

test('a wait whose time is over rejects with the timers of the loop', async () => {
  const place = segment()
  const holder = await heldElsewhere(place)
  const fate = reasonOf(place.locker.lock({ timeout: 20 }))
  let over = false
  void fate.then(() => (over = true))
  const end = performance.now() + 21
  while (performance.now() < end);
  assert.is(over, false)
  // Of the first turn the timers may have been called already.
  for (let turns = 0; turns < 2; turns++) await turn()
  assert.is(over, true)
  assert.is(((await fate) as LockError).code, 'ERR_ROBUST_LOCK_TIMEOUT')
  await release(holder, place.locker.id)
})

test('a signal that is aborted already rejects with its reason, even if the lock is free', async () => {
  const place = segment()
  const { locker, manager } = place
  for (const reason of reasons) {
    const signal = AbortSignal.abort(reason)
    assert.is(await reasonOf(locker.lock({ signal })), signal.reason)
    assert.is(await reasonOf(locker.lock({ signal, timeout: 0 })), signal.reason)
    assert.is(await reasonOf(locker.withLock(() => assert.unreachable(), { signal })), signal.reason)
    assert.is(listeners(signal), 0)
    assert.equal(manager.locksHeld(), [])
  }
  const guard = locker.lockSync()
  const { token } = guard
  const signal = AbortSignal.abort()
  assert.is(await reasonOf(locker.lock({ signal })), signal.reason)
  guard.unlock()
  const next = await locker.lock()
  assert.is(next.token, token + 1, 'nothing was tried')
  next.unlock()
})

for (const where of ['this thread', 'another process']) {
  test(`an abort while the lock of ${where} is waited for`, async () => {
    const place = segment()
    const { locker, manager } = place
    const guard = where === 'this thread' ? locker.lockSync() : undefined
    const peer = guard === undefined ? await heldElsewhere(place) : undefined
    for (const reason of reasons) {
      for (const at of ['once', 'later']) {
        const abort = new AbortController()
        const reasoned = reasonOf(locker.lock({ signal: abort.signal }))
        assert.is(listeners(abort.signal), 1)
        if (at === 'later' && peer !== undefined) await until('it waits', () => isWaitedFor(manager.path, locker.id))
        else if (at === 'later') await turn()
        abort.abort(reason)
        assert.is(await reasoned, abort.signal.reason)
        assert.is(listeners(abort.signal), 0)
      }
    }
    assert.equal(manager.locksHeld(), [locker.id])
    const next = locker.lock()
    guard?.unlock()
    if (peer !== undefined) await release(peer, locker.id)
    ;(await next).unlock()
    await isFree(place)
  })
}

test('the place in the queue is gone while the lock is held still, and the helper with it', async () => {
  const place = segment()
  const { locker, manager } = place
  const peer = await heldElsewhere(place)
  for (const how of ['abort', 'timeout', 'close'] as const) {
    const abort = new AbortController()
    const other = openManager(place.options)
    const wait = other.retrieveLock(locker.id).lock({ signal: abort.signal, timeout: how === 'timeout' ? 100 : Infinity })
    const fate = reasonOf(wait)
    await until('it stands at the gate', () => isWaitedFor(manager.path, locker.id))
    if (how === 'abort') abort.abort()
    if (how === 'close') other.close()
    await fate
    await until('the gate is open', () => !isWaitedFor(manager.path, locker.id))
  }
  await until('the helper has gone', () => helpers() === 0)
  assert.equal(manager.locksHeld(), [locker.id])
  await release(peer, locker.id)
  await isFree(place)
})

test('no listener is left, however the wait ends', async () => {
  const place = segment()
  const { locker } = place
  const { signal } = new AbortController()
  const free = await locker.lock({ signal })
  assert.is(listeners(signal), 0, 'granted at once')
  await rejects(locker.lock({ signal, timeout: 1 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.is(listeners(signal), 0, 'out of time')
  const waiting = locker.lock({ signal })
  assert.is(listeners(signal), 1)
  free.unlock()
  assert.is(listeners(signal), 0, 'handed over')
  ;(await waiting).unlock()
  const peer = await heldElsewhere(place)
  const across = locker.lock({ signal, timeout: 30_000 })
  assert.is(listeners(signal), 1)
  await release(peer, locker.id)
  ;(await across).unlock()
  assert.is(listeners(signal), 0, 'granted by another process')
  const closing = openManager(place.options)
  const guard = locker.lockSync()
  const closed = closing.retrieveLock(locker.id).lock({ signal })
  closing.close()
  await rejects(closed, 'ERR_ROBUST_LOCK_CLOSED')
  assert.is(listeners(signal), 0, 'closed')
  guard.unlock()
})

test('an abort after the grant does nothing', async () => {
  const { locker, manager } = segment()
  const abort = new AbortController()
  const guard = await locker.lock({ signal: abort.signal })
  const next = new AbortController()
  const waiting = locker.lock({ signal: next.signal })
  abort.abort()
  assert.equal(manager.locksHeld(), [locker.id])
  guard.unlock()
  // Granted, though nobody has been told yet.
  next.abort()
  const handed = await waiting
  assert.equal(manager.locksHeld(), [locker.id])
  handed.unlock()
  assert.equal(manager.locksHeld(), [])
})

test('one signal for many waits, between others', async () => {
  const place = segment()
  const guard = place.locker.lockSync()
  const abort = new AbortController()
  const order: number[] = []
  const fates = Array.from({ length: 40 }, (_, i) =>
    place.locker.withLock(() => order.push(i), i % 4 === 3 ? {} : { signal: abort.signal }).catch((reason) => reason),
  )
  // One for all of them: Node 20 warns of a leak at the eleventh, and each that is added looks through all others.
  assert.is(listeners(abort.signal), 1)
  const reason = new Error('none of them')
  abort.abort(reason)
  assert.is(listeners(abort.signal), 0)
  guard.unlock()
  const results = await Promise.all(fates)
  assert.equal(order, [...Array(40).keys()].filter((i) => i % 4 === 3))
  assert.is(results.filter((result) => result === reason).length, 30)
  await isFree(place)
})

test('AbortSignal.timeout() and AbortSignal.any()', async () => {
  const place = segment()
  const guard = place.locker.lockSync()
  const timeout = AbortSignal.timeout(5)
  // Node does not let such a signal keep the process alive, but the wait does.
  assert.is(await reasonOf(place.locker.lock({ signal: timeout })), timeout.reason)
  const abort = new AbortController()
  const any = AbortSignal.any([abort.signal, new AbortController().signal])
  const reasoned = reasonOf(place.locker.lock({ signal: any }))
  abort.abort('any of them')
  assert.is(await reasoned, 'any of them')
  guard.unlock()
  await isFree(place)
})

test('aborts from within an abort, and an unlock from within one', async () => {
  const place = segment()
  const { locker } = place
  const guard = locker.lockSync()
  const [one, two] = [new AbortController(), new AbortController()]
  one.signal.addEventListener('abort', () => two.abort('two'))
  two.signal.addEventListener('abort', () => guard.unlock())
  const first = reasonOf(locker.lock({ signal: one.signal }))
  const second = reasonOf(locker.lock({ signal: two.signal }))
  const third = locker.lock()
  const { token } = guard
  one.abort('one')
  // The listeners above come first: the unlock finds both in the queue still, and neither is its heir.
  assert.is(await first, 'one')
  assert.is(await second, 'two')
  const heir = await third
  assert.is(heir.token, token + 1)
  heir.unlock()
  assert.is(listeners(one.signal), 1)
  assert.is(listeners(two.signal), 1)
  await isFree(place)
})

test('a wait whose signal has been aborted is not granted, whoever lets the lock go, and how', async () => {
  const place = segment()
  const { locker } = place
  for (const elsewhere of [false, true]) {
    const guard = elsewhere ? undefined : locker.lockSync()
    const holder = elsewhere ? await heldElsewhere(place) : undefined
    // Made without a listener's call: as its listeners are called one by one, one of them may take long.
    const signal = Object.assign(new EventTarget(), { aborted: false, reason: 'called off' })
    const wait = reasonOf(locker.lock({ signal: signal as unknown as AbortSignal }))
    signal.aborted = true
    guard?.unlock()
    if (holder !== undefined) await release(holder, locker.id)
    assert.is(await within(wait, 'the end of the wait'), 'called off')
    await isFree(place)
  }
})

test('a signal that does not let go of its listener keeps nobody from the lock', async () => {
  const place = segment()
  const { locker } = place
  const holder = await heldElsewhere(place)
  const broken = {
    aborted: false,
    addEventListener(): void {},
    removeEventListener(): void {
      throw new Error('broken')
    },
  }
  const waits = [locker.lock({ signal: broken as unknown as AbortSignal }), locker.lock()]
  const fates = Promise.all(waits.map(async (wait) => (await wait).unlock()))
  await release(holder, locker.id)
  await within(fates, 'both of them')
  await isFree(place)
})

test('a signal whose listener is let go of by code that locks and calls off', async () => {
  const place = segment()
  const { locker, manager } = place
  const other = manager.allocateLock()
  // Granted by its own thread, and by another process.
  for (const elsewhere of [false, true]) {
    const guard = elsewhere ? undefined : locker.lockSync()
    const holder = elsewhere ? await heldElsewhere(place) : undefined
    const signal = Object.assign(new EventTarget(), { aborted: false, removeEventListener: () => other.lockSync().unlock() })
    const wait = locker.lock({ signal: signal as unknown as AbortSignal })
    guard?.unlock()
    if (holder !== undefined) await release(holder, locker.id)
    const granted = await within(wait, 'its turn')
    assert.equal(manager.locksHeld(), [locker.id], 'who is told that it has the lock has it')
    granted.unlock()
    await isFree(place)
  }
  const closing = openManager(place.options)
  const guard = locker.lockSync()
  const signal = Object.assign(new EventTarget(), { aborted: false, reason: 'called off', removeEventListener: () => closing.close() })
  const wait = reasonOf(closing.retrieveLock(locker.id).lock({ signal: signal as unknown as AbortSignal }))
  const next = locker.lock()
  signal.dispatchEvent(new Event('abort'))
  assert.is(await wait, 'called off')
  guard.unlock()
  ;(await within(next, 'the one that waits behind it')).unlock()
  await isFree(place)
})

test('a signal that fails when it is asked, or releases the lock itself', async () => {
  const place = segment()
  const { locker, manager } = place
  let act: (() => void) | undefined
  const signal = {
    get aborted(): boolean {
      const now = act
      act = undefined
      now?.()
      return false
    },
    addEventListener(): void {},
    removeEventListener(): void {},
  } as unknown as AbortSignal
  const guard = locker.lockSync()
  const failed = reasonOf(locker.lock({ signal }))
  const next = locker.lock()
  act = () => {
    throw new Error('broken')
  }
  guard.unlock()
  assert.match(String(await within(failed, 'the one whose signal fails')), 'broken')
  const again = await within(next, 'the one that waits behind it')
  const wait = locker.lock({ signal })
  act = () => again.unlock()
  again.unlock()
  assert.equal(manager.locksHeld(), [locker.id], 'it is the next one, and has been let go of once')
  ;(await wait).unlock()
  await isFree(place)
})

test('close() rejects what waits through this manager, and nothing else', async () => {
  const place = segment()
  const { locker, options } = place
  for (const elsewhere of [false, true]) {
    const peer = elsewhere ? await heldElsewhere(place) : undefined
    const guard = elsewhere ? undefined : locker.lockSync()
    const manager = openManager(options)
    const order: string[] = []
    const closed = [1, 2, 3].map(() => manager.retrieveLock(locker.id).lock())
    const stays = locker.withLock(() => order.push('the other manager'))
    closed.push(manager.retrieveLock(locker.id).lock({ timeout: 30_000 }))
    manager.close()
    const ends = await within(Promise.allSettled(closed), 'the waits of a closed manager')
    const codes = ends.map((end) => end.status === 'rejected' && (end.reason as LockError).code)
    assert.equal(codes, closed.map(() => 'ERR_ROBUST_LOCK_CLOSED'))
    assert.equal(order, [])
    guard?.unlock()
    if (peer !== undefined) await release(peer, locker.id)
    await stays
    await isFree(place)
  }
})

test('after close() guards stay valid, and every other call is refused', async () => {
  const { manager, locker, options } = segment()
  const other = manager.allocateLock()
  const [guard, one] = [await locker.lock(), other.lockSync()]
  manager.close()
  manager.close()
  manager[Symbol.dispose]()
  const calls: (() => unknown)[] = [
    () => manager.allocateLock(),
    () => manager.retrieveLock(0),
    () => manager.allocateAndRetrieveLock(1),
    () => manager.freeAllLocks(),
    () => manager.availableLocks(),
    () => manager.locksHeld(),
    () => locker.lockSync(),
    () => locker.tryLock(),
    () => locker.withLockSync(() => assert.unreachable()),
    () => locker.free(),
  ]
  for (const call of calls) throws(call, 'ERR_ROBUST_LOCK_CLOSED')
  await rejects(locker.lock(), 'ERR_ROBUST_LOCK_CLOSED')
  await rejects(locker.withLock(() => assert.unreachable()), 'ERR_ROBUST_LOCK_CLOSED')
  const again = openManager(options)
  assert.is(again.created, false)
  assert.equal(again.locksHeld(), [locker.id, other.id])
  guard.markConsistent()
  guard.unlock()
  other.unlock()
  throws(() => one.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  assert.equal(again.locksHeld(), [])
})

test('a manager is closed by using', async () => {
  const { options, locker } = segment()
  const guard: Guard = locker.lockSync()
  let waiting: Promise<Guard>
  {
    using manager = openManager(options)
    waiting = manager.retrieveLock(locker.id).lock()
  }
  await rejects(waiting, 'ERR_ROBUST_LOCK_CLOSED')
  guard.unlock()
})

test.run()
