// What a program does to the things that a wait is made of: events, timers, promises.
import { createHook } from 'node:async_hooks'
import timers = require('node:timers')
import * as assert from 'uvu/assert'
import { rejects } from './fixtures/expect.cjs'
import { release } from './fixtures/jobs.cjs'
import { heldElsewhere, isFree, segment } from './fixtures/place.cjs'
import { suite } from './fixtures/suite.cjs'
import { within } from './fixtures/within.cjs'

const test = suite('around')

test('a listener that keeps the abort from those behind it', async () => {
  const place = segment()
  const abort = new AbortController()
  abort.signal.addEventListener('abort', (event) => event.stopImmediatePropagation())
  const guard = place.locker.lockSync()
  const waits = [1, 2].map(() => place.locker.lock({ signal: abort.signal }).catch((reason) => reason))
  abort.abort('called off')
  assert.equal(await within(Promise.all(waits), 'the end of both waits'), ['called off', 'called off'])
  guard.unlock()
  await isFree(place)
})

test('fake timers and a clock that stands still, put in place during the wait or before it', async () => {
  const place = segment()
  const { locker, manager } = place
  const [other, guard] = [manager.allocateLock(), locker.lockSync()]
  const wait = (): Promise<unknown> => Promise.all([
    rejects(locker.lock({ timeout: 20 }), 'ERR_ROBUST_LOCK_TIMEOUT'),
    rejects(manager.lockAll([locker, other], { timeout: 20 }), 'ERR_ROBUST_LOCK_TIMEOUT'),
  ])
  const begun = wait()
  const never = (): undefined => undefined
  const fakes = { setTimeout: never, clearTimeout: never, setImmediate: never }
  const { performance } = globalThis
  const { setTimeout, clearTimeout, setImmediate } = timers
  const real = { setTimeout, clearTimeout, setImmediate }
  // A clock that is not ours keeps this process alive, and ends it if the waits do not end.
  const limit = setTimeout(() => process.exit(1), 60_000)
  Object.assign(timers, fakes)
  Object.assign(globalThis, fakes, { performance: { now: () => 0 } })
  try {
    await begun
    await wait()
  } finally {
    Object.assign(timers, real)
    Object.assign(globalThis, real, { performance })
    clearTimeout(limit)
  }
  guard.unlock()
  await isFree(place)
})

for (const elsewhere of [false, true]) {
  test(`${elsewhere ? 'another process' : 'this thread'} lets go, and a hook calls off the task that is being granted`, async () => {
    const place = segment()
    const { locker, manager } = place
    const guard = elsewhere ? undefined : locker.lockSync()
    const holder = elsewhere ? await heldElsewhere(place) : undefined
    const abort = new AbortController()
    const ids = new WeakMap<object, number>()
    const hook = createHook({
      init: (id, _type, _trigger, resource) => ids.set(resource, id),
      promiseResolve: (id) => {
        if (id === ids.get(first)) abort.abort()
      },
    }).enable()
    const first = locker.lock({ signal: abort.signal })
    const next = [locker.lock(), locker.lock()]
    try {
      guard?.unlock()
      if (holder !== undefined) await release(holder, locker.id)
      // Settled before it was called off: it has the lock.
      const granted = await within(first, 'the one that is called off too late')
      assert.ok(abort.signal.aborted)
      assert.equal(manager.locksHeld(), [locker.id])
      granted.unlock()
    } finally {
      hook.disable()
    }
    for (const wait of next) (await within(wait, 'those behind it')).unlock()
    await isFree(place)
  })
}

test.run()
