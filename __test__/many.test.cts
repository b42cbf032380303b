// Many waits: of one lock without a thread, of more locks than there are helpers, and called off.
import { getEventListeners } from 'node:events'
import { readdirSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { openManager, type Locker, type LockError } from 'robust-lock'
import { open, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite, unique } from './fixtures/suite.cjs'
import { helpers } from './fixtures/threads.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('many')

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

test('1,000 contended locks, 64 helpers: all are served', async () => {
  const { lockers, options } = locks(1_000)
  // One thread may hold 960.
  const peers = [await holder(options), await holder(options)] as const
  for (const [i, peer] of peers.entries()) {
    await peer.run(({ locker, guards }, from) => {
      for (let id = from; id < from + 500; id++) guards.set(id, locker(id).lockSync())
    }, i * 500)
  }
  const waits = lockers.map((locker) => locker.lock())
  await until('the helpers are out', () => helpers() === 64)
  // The last ones first: no helper stands there yet, and 64 stand at locks that are not free.
  await peers[1].run(({ guards }) => [...guards.values()].toReversed().forEach((guard) => guard.unlock()))
  for (const wait of waits.slice(500)) (await wait).unlock()
  assert.ok(helpers() <= 64)
  await peers[0].kill()
  for (const wait of waits.slice(0, 500)) {
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

test.run()
