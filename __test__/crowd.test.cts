// Many waits at once: more locks than helper threads, and an event loop that goes on.
import { pbkdf2 } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { promisify } from 'node:util'
import * as assert from 'uvu/assert'
import { openManager, type Locker, type Manager, type OpenOptions } from 'robust-lock'
import { open, release } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import type { Party, Scope } from './fixtures/scope.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { helpers } from './fixtures/threads.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('crowd')
const MOST_HELPERS = 64

interface Place {
  manager: Manager
  lockers: Locker[]
  ids: number[]
  options: OpenOptions
}

function segment(locks: number): Place {
  const options = { name: unique() }
  const manager = openManager(options)
  const lockers = Array.from({ length: locks }, () => manager.allocateLock())
  return { manager, lockers, ids: lockers.map(({ id }) => id), options }
}

function takeAll(party: Party, ids: number[]): Promise<void> {
  return party.run(({ locker, guards }, ids) => {
    for (const id of ids) guards.set(id, locker(id).lockSync())
  }, ids)
}

async function allAreFree({ manager, lockers }: Place): Promise<void> {
  for (const locker of lockers) {
    const guard = locker.tryLock()
    assert.ok(guard, `lock ${locker.id} is free`)
    guard?.unlock()
    await until('the gates are open', () => !isWaitedFor(manager.path, locker.id))
  }
}

test('the event loop goes on while 64 locks are waited for', async () => {
  const place = segment(64)
  const holder = new ProcessPeer()
  await open(holder, place.options)
  await takeAll(holder, place.ids)
  let granted = 0
  const waits = place.lockers.map((locker) => locker.withLock(() => granted++))
  await until('all are waited for', () => place.ids.every((id) => isWaitedFor(place.manager.path, id)))
  // Timers, the loop itself, and all that goes through libuv's pool of 4 threads.
  const derive = promisify(pbkdf2)
  for (let i = 0; i < 20; i++) {
    await Promise.all([
      ...Array.from({ length: 10 }, () => stat(folder)),
      derive('password', 'salt', 10, 16, 'sha256'),
      new Promise((resolve) => setTimeout(resolve, 1)),
      turn(),
    ])
  }
  assert.is(granted, 0)
  for (const id of place.ids) await release(holder, id)
  await Promise.all(waits)
  assert.is(granted, 64)
  await allAreFree(place)
})

test('200 contended locks at once, released in any order', async () => {
  const place = segment(200)
  const holder = new ProcessPeer()
  await open(holder, place.options)
  await takeAll(holder, place.ids)
  const granted = new Set<number>()
  const waits = place.lockers.map((locker) =>
    locker.withLock(async () => {
      await turn()
      granted.add(locker.id)
    }),
  )
  await until('64 are waited for', () => place.ids.filter((id) => isWaitedFor(place.manager.path, id)).length >= MOST_HELPERS)
  assert.is(helpers(), MOST_HELPERS)
  assert.is(granted.size, 0)
  // Also those that no helper stands at yet.
  for (const id of place.ids.reverse()) {
    await release(holder, id)
    assert.ok(helpers() <= MOST_HELPERS)
  }
  await Promise.all(waits)
  assert.is(granted.size, 200)
  await allAreFree(place)
  await until('the helpers have gone', () => helpers() === 0)
})

test('100 locks that a Worker and the main thread wait for at once', async () => {
  const place = segment(100)
  const holder = new ProcessPeer()
  const worker = new WorkerPeer()
  for (const peer of [holder, worker]) await open(peer, place.options)
  await takeAll(holder, place.ids)
  const waitForAll = ({ locker }: Scope, ids: number[]): Promise<number> =>
    Promise.all(ids.map((id) => locker(id).withLock(() => 1))).then(({ length }) => length)
  const there = worker.run(waitForAll, place.ids)
  const here = Promise.all(place.lockers.map((locker) => locker.withLock(() => 1)))
  await until('many are waited for', () => place.ids.filter((id) => isWaitedFor(place.manager.path, id)).length >= 32)
  for (const id of place.ids) await release(holder, id)
  assert.is((await here).length, 100)
  assert.is(await there, 100)
  await allAreFree(place)
})

test('2,000 waits that are called off at random, beside a holder that comes and goes', async () => {
  const place = segment(20)
  const coming = async ({ locker, tell }: Scope, ids: number[]): Promise<void> => {
    tell('at work')
    for (let round = 0; ; round++) {
      const id = ids[(round * 7) % ids.length] as number
      const guard = round % 2 === 0 ? locker(id).lockSync() : await locker(id).lock()
      for (let turns = Math.floor(Math.random() * 4); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
      guard.unlock()
    }
  }
  const holders = [new ProcessPeer(), new ProcessPeer()]
  for (const holder of holders) {
    await open(holder, place.options)
    holder.launch(coming, place.ids)
    await holder.hears('at work')
  }
  const inside = new Set<number>()
  let [granted, timedOut, aborted] = [0, 0, 0]
  const one = async (n: number): Promise<void> => {
    const locker = place.lockers[n % 20] as Locker
    const abort = new AbortController()
    const fate = Math.random()
    const wait = locker.lock({
      ...(fate < 0.7 ? { signal: abort.signal } : {}),
      ...(fate > 0.4 && fate < 0.9 ? { timeout: Math.random() * 4 } : {}),
    })
    const callOff = async (): Promise<void> => {
      for (let turns = Math.floor(Math.random() * 20); turns > 0; turns--) await turn()
      abort.abort('called off')
    }
    if (fate < 0.7) void callOff()
    try {
      const guard = await wait
      assert.is(inside.has(locker.id), false)
      inside.add(locker.id)
      if (n % 3 === 0) await turn()
      inside.delete(locker.id)
      guard.unlock()
      granted++
    } catch (reason) {
      if (reason === 'called off') aborted++
      else if ((reason as NodeJS.ErrnoException).code === 'ERR_ROBUST_LOCK_TIMEOUT') timedOut++
      else throw reason
    }
  }
  for (let batch = 0; batch < 20; batch++) {
    await Promise.all(Array.from({ length: 100 }, (_, n) => one(batch * 100 + n)))
  }
  assert.is(granted + timedOut + aborted, 2000)
  assert.ok(granted > 0 && aborted > 0)
  // Now the holders end, wherever they are: only what they held may tell of it.
  await Promise.all(holders.map((holder) => holder.kill()))
  for (const locker of place.lockers) {
    const guard = await locker.lock()
    guard.markConsistent()
    guard.unlock()
    assert.is((await locker.lock({ timeout: 0 })).ownerDied, false)
    locker.unlock()
  }
  assert.equal(place.manager.locksHeld(), [])
  await allAreFree(place)
  await until('the helpers have gone', () => helpers() === 0)
})

test.run()
