// `await lock()`: in order, in time, called off, and never in the way of anything else.
import { getEventListeners } from 'node:events'
import { readdirSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager, type Guard, type Locker, type LockError } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite, unique } from './fixtures/suite.cjs'
import { helpers } from './fixtures/threads.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('waiting')

function locks(count = 1): { lockers: Locker[]; locker: Locker; options: { name: string }; path: string } {
  const options = { name: unique() }
  const manager = openManager(options)
  const lockers = Array.from({ length: count }, () => manager.allocateLock())
  return { lockers, locker: lockers[0] as Locker, options, path: manager.path }
}

async function holder(options: { name: string }, ...ids: number[]): Promise<ProcessPeer> {
  const peer = new ProcessPeer()
  await open(peer, options)
  for (const id of ids) await take(peer, id)
  return peer
}

test('10,000 tasks of one thread: first in, first out, without a thread', async () => {
  const { locker } = locks()
  const held = locker.lockSync()
  const before = readdirSync('/proc/self/task').length
  const order: number[] = []
  const tasks = Array.from({ length: 10_000 }, (_, i) => locker.withLock(() => order.push(i)))
  assert.is(readdirSync('/proc/self/task').length, before)
  held.unlock()
  await Promise.all(tasks)
  assert.equal(order, Array.from(order, (_, i) => i))
  assert.is(order.length, 10_000)
})

test('a timeout of 0 is one try', async () => {
  const { locker, options } = locks()
  ;(await locker.lock({ timeout: 0 })).unlock()
  locker.lockSync({ timeout: 0 }).unlock()
  const peer = await holder(options, locker.id)
  await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  throws(() => locker.lockSync({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await release(peer, locker.id)
  const mine = locker.lockSync()
  await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  mine.unlock()
})

test('a timeout ends the wait, and the place in the queue is gone', async () => {
  const { locker, options, path } = locks()
  const peer = await holder(options, locker.id)
  await rejects(locker.lock({ timeout: 15 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  throws(() => locker.lockSync({ timeout: 15 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await until('nobody stands at the gate', () => !isWaitedFor(path, locker.id))
  await release(peer, locker.id)
  const [one, two] = [locker.lockSync(), locker.lock({ timeout: 15 })]
  await rejects(two, 'ERR_ROBUST_LOCK_TIMEOUT')
  one.unlock()
  locker.lockSync().unlock()
})

test('long timeouts do not fire at once', async () => {
  const { locker, options } = locks()
  const peer = await holder(options, locker.id)
  const waits = [2 ** 31, 2 ** 40, Number.MAX_VALUE, Infinity].map((timeout) => locker.lock({ timeout }))
  await sleep(30)
  await release(peer, locker.id)
  for (const wait of waits) (await wait).unlock()
})

test('bad options are refused as Node does', async () => {
  const { locker } = locks()
  for (const timeout of [-1, NaN, -Infinity]) {
    await rejects(locker.lock({ timeout }), 'ERR_OUT_OF_RANGE')
    throws(() => locker.lockSync({ timeout }), 'ERR_OUT_OF_RANGE')
  }
  for (const options of [{ timeout: '5' }, { timeout: null }, 5, null, 'x']) {
    await rejects(locker.lock(options as never), 'ERR_INVALID_ARG_TYPE')
    throws(() => locker.lockSync(options as never), 'ERR_INVALID_ARG_TYPE')
  }
  for (const signal of [{}, null, 'x']) await rejects(locker.lock({ signal } as never), 'ERR_INVALID_ARG_TYPE')
  await rejects(locker.withLock(undefined as never), 'ERR_INVALID_ARG_TYPE')
  throws(() => locker.withLockSync(5 as never), 'ERR_INVALID_ARG_TYPE')
  locker.lockSync().unlock()
})

test('an abort rejects with exactly the reason, wherever the task stands', async () => {
  const { locker, options } = locks()
  const reason = { not: 'an Error' }
  const caught = (wait: Promise<Guard>): Promise<unknown> => wait.then(() => 'granted', (thrown: unknown) => thrown)
  assert.is(await caught(locker.lock({ signal: AbortSignal.abort(reason) })), reason, 'aborted already, though the lock is free')
  assert.equal(openManager(options).locksHeld(), [])

  const held = locker.lockSync()
  const inThread = new AbortController()
  const [first, second, third] = [locker.lock(), locker.lock({ signal: inThread.signal }), locker.lock()]
  inThread.abort(reason)
  assert.is(await caught(second), reason)
  assert.is(getEventListeners(inThread.signal, 'abort').length, 0)
  held.unlock()
  ;(await first).unlock()
  ;(await third).unlock()

  const peer = await holder(options, locker.id)
  const across = new AbortController()
  const wait = locker.lock({ signal: across.signal })
  await turn()
  across.abort(reason)
  assert.is(await caught(wait), reason)
  await release(peer, locker.id)
  const granted = new AbortController()
  const guard = await locker.lock({ signal: granted.signal })
  granted.abort(reason)
  assert.is(getEventListeners(granted.signal, 'abort').length, 0)
  guard.unlock()
  const timed = new AbortController()
  const again = locker.lockSync()
  await rejects(locker.lock({ signal: timed.signal, timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.is(getEventListeners(timed.signal, 'abort').length, 0)
  again.unlock()
})

test('lockSync overtakes the tasks of its thread, which get the lock afterwards', async () => {
  const { locker, options } = locks()
  const peer = await holder(options, locker.id)
  const tasks = Array.from({ length: 5 }, () => locker.lock())
  await turn()
  await peer.run(({ guards, tell }, id) => {
    tell('about to release')
    setTimeout(() => guards.get(id)?.unlock(), 20)
  }, locker.id)
  const sync = locker.lockSync()
  for (const task of tasks) void task.then((guard) => guard.unlock())
  sync.unlock()
  await Promise.all(tasks)
  const again = await holder(options, locker.id)
  const [pending] = [locker.lock(), await turn()]
  throws(() => locker.lockSync({ timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.is(locker.tryLock(), undefined)
  await release(again, locker.id)
  ;(await pending).unlock()
})

test('64 contended locks: files and timers go on', async () => {
  const { lockers, options } = locks(64)
  const peer = await holder(options, ...lockers.map(({ id }) => id))
  const waits = lockers.map((locker) => locker.lock())
  await until('helpers wait for all', () => helpers() >= 64)
  for (let i = 0; i < 50; i++) {
    await stat('/')
    await sleep(1)
  }
  await peer.run(({ guards }) => guards.forEach((guard) => guard.unlock()))
  for (const wait of waits) (await wait).unlock()
  await peer.kill()
})

test('300 contended locks, 64 helpers: all are served', async () => {
  const { lockers, options } = locks(300)
  const peer = await holder(options)
  await peer.run(({ locker, guards }) => {
    for (let id = 0; id < 300; id++) guards.set(id, locker(id).lockSync())
  })
  const waits = lockers.map((locker) => locker.lock())
  await until('the helpers are out', () => helpers() === 64)
  // The last ones first: no helper may be stuck with a lock that is not free.
  await peer.run(({ guards }) => [...guards.keys()].toReversed().slice(0, 150).forEach((id) => guards.get(id)?.unlock()))
  for (const wait of waits.slice(150)) (await wait).unlock()
  await peer.kill()
  for (const wait of waits.slice(0, 150)) {
    const guard = await wait
    assert.is(guard.ownerDied, true)
    guard.unlock()
  }
  await until('the helpers have gone', () => helpers() === 0)
})

test('100,000 waits are called off or granted at random, and nothing is left', async () => {
  const { lockers, options, path } = locks(8)
  const threads = readdirSync('/proc/self/task').length - helpers()
  const peer = await holder(options)
  peer.launch(async ({ locker }) => {
    for (;;) {
      await locker(Math.floor(Math.random() * 8)).withLock(() => {
        const end = performance.now() + Math.random()
        while (performance.now() < end);
      })
      await new Promise((resolve) => setImmediate(resolve))
    }
  })
  const reason = new Error('called off')
  const counts = { granted: 0, aborted: 0, timedOut: 0 }
  const one = async (): Promise<void> => {
    const locker = lockers[Math.floor(Math.random() * 8)] as Locker
    const controller = new AbortController()
    const [kind, when] = [Math.random(), Math.random()]
    const wait = locker.lock(kind < 0.5 ? { signal: controller.signal } : { timeout: Math.random() * 3 })
    if (kind < 0.5) {
      if (when < 0.3) controller.abort(reason)
      else if (when < 0.6) setImmediate(() => controller.abort(reason))
      else setTimeout(() => controller.abort(reason), when * 3)
    }
    try {
      const guard = await wait
      counts.granted++
      if (when < 0.3) await null
      guard.unlock()
    } catch (thrown) {
      if (thrown === reason) counts.aborted++
      else if ((thrown as LockError).code === 'ERR_ROBUST_LOCK_TIMEOUT') counts.timedOut++
      else throw thrown
    }
    assert.is(getEventListeners(controller.signal, 'abort').length, 0)
  }
  for (let i = 0; i < 1_000; i++) await Promise.all(Array.from({ length: 100 }, one))
  assert.is(counts.granted + counts.aborted + counts.timedOut, 100_000)
  assert.ok(counts.granted > 0 && counts.aborted > 0 && counts.timedOut > 0, JSON.stringify(counts))
  await peer.kill()
  for (const locker of lockers) {
    await until('the gates are open', () => !isWaitedFor(path, locker.id))
    const guard = locker.tryLock()
    assert.ok(guard, 'free')
    guard.unlock()
  }
  assert.equal(openManager(options).locksHeld(), [])
  await until('the helpers have gone', () => helpers() === 0)
  assert.ok(readdirSync('/proc/self/task').length <= threads)
})

test('a pending lock() keeps a process alive, and nothing else of ours does', async () => {
  const { locker, options } = locks()
  const idle = await holder(options)
  idle.launch(async ({ locker, guards }, id) => {
    process.removeAllListeners('disconnect')
    const [first, second] = [locker(id).lock(), locker(id).lock()]
    ;(await first).unlock()
    guards.set(id, await second)
    process.exitCode = 5
    process.disconnect()
    // No answer: there is nobody to hear it.
    await new Promise(() => {})
  }, locker.id)
  assert.is((await idle.ended).code, 5, 'with a guard in hand, and a wait behind it')

  const mine = locker.lockSync()
  assert.is(mine.ownerDied, true)
  mine.markConsistent()
  const pending = await holder(options)
  pending.launch(async ({ locker, tell }, id) => {
    const wait = locker(id).lock()
    tell('waits')
    process.removeAllListeners('disconnect')
    setImmediate(() => process.disconnect())
    ;(await wait).unlock()
    process.exitCode = 7
    await new Promise(() => {})
  }, locker.id)
  await pending.hears('waits')
  await until('it stands at the gate', () => isWaitedFor(openManager(options).path, locker.id))
  await sleep(50)
  assert.is(pending.child.exitCode, null)
  mine.unlock()
  assert.is((await pending.ended).code, 7)
})

test.run()
