// Many waits: of one lock without a thread, of more locks than there are helpers, and called off.
import { readdirSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { openManager, type Locker } from 'robust-lock'
import { belongings, callOff, comeAndGo } from './fixtures/calling-off.cjs'
import { open, take } from './fixtures/jobs.cjs'
import { heapBytes } from './fixtures/memory.cjs'
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

test('10,000 tasks of one thread: first in, first out, without a thread, in less than 1 KiB each', async () => {
  const { locker } = locks()
  const held = locker.lockSync()
  const before = readdirSync('/proc/self/task').length
  const order: number[] = []
  const bytes = heapBytes()
  const waits = Array.from({ length: 10_000 }, () => locker.lock())
  const each = (heapBytes() - bytes) / 10_000
  assert.ok(each < 1_024, `${each} bytes for each task`)
  const tasks = waits.map((wait, i) => wait.then((guard) => {
    order.push(i)
    guard.unlock()
  }))
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
  const { lockers, options, path } = locks(2)
  const peer = await holder(options)
  peer.launch(comeAndGo, 2)
  // What is made once: the threadsafe function, the code of the loop.
  await callOff(lockers, 2_000)
  const before = belongings()
  const grown: number[] = []
  const all = { granted: 0, aborted: 0, timedOut: 0 }
  for (let quarter = 0; quarter < 4; quarter++) {
    const bytes = heapBytes()
    const { granted, aborted, timedOut, listeners } = await callOff(lockers, 25_000)
    assert.is(granted + aborted + timedOut, 25_000)
    assert.is(listeners, 0)
    grown.push(heapBytes() - bytes)
    all.granted += granted
    all.aborted += aborted
    all.timedOut += timedOut
  }
  // In one quarter, which may take 0.1 s, the holder may not have come at all: then nobody's time is over.
  assert.ok(Math.min(...Object.values(all)) > 0, JSON.stringify(all))
  // What the waits leave, each quarter leaves; what the engine makes of the code, and when, is another matter.
  assert.ok(Math.min(...grown) < 2.5e5, `${grown.join(' and ')} bytes more: 10 for each wait`)
  assert.equal(belongings(), before)
  await peer.kill()
  for (const locker of lockers) {
    await until('the gates are open', () => !isWaitedFor(path, locker.id))
    const guard = locker.tryLock()
    assert.ok(guard, 'free')
    guard.unlock()
  }
  assert.equal(openManager(options).locksHeld(), [])
  await until('the helpers have gone', () => helpers() === 0)
})

test.run()
