// What comes to an end while it waits: Workers, vm scripts, processes. It ends, and leaves nothing.
import { createContext, runInContext } from 'node:vm'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager, type Guard, type Locker } from 'robust-lock'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer, type Peer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { segment, type Place } from './fixtures/place.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite, unique } from './fixtures/suite.cjs'
import { helpers } from './fixtures/threads.cjs'
import { until, within } from './fixtures/within.cjs'

const test = suite('terminate')

/** The lock can be had, its holder was no victim, and nobody stands at its gates. */
async function isWhole({ manager, locker }: Place): Promise<void> {
  await until('the gates are open', () => !isWaitedFor(manager.path, locker.id))
  for (const acquire of [() => locker.tryLock(), () => locker.lockSync(), () => locker.lock()]) {
    const guard = await acquire()
    assert.is(guard?.ownerDied, false)
    guard?.unlock()
  }
  assert.equal(manager.locksHeld(), [])
}

function blocks({ locker, tell }: Scope, id: number): void {
  tell('waits')
  locker(id).lockSync()
}

async function awaits({ locker, tell }: Scope, id: number): Promise<void> {
  tell('waits')
  await locker(id).lock()
}

async function waiter(place: Place, job: (scope: Scope, id: number) => unknown): Promise<WorkerPeer> {
  const worker = new WorkerPeer()
  await open(worker, place.options)
  worker.launch(job, place.locker.id)
  await worker.hears('waits')
  return worker
}

for (const job of [blocks, awaits]) {
  for (const kind of ['this thread', 'another process']) {
    test(`a Worker that ${job.name} a lock of ${kind} is terminated`, async () => {
      const place = segment()
      const holder = new ProcessPeer()
      await open(holder, place.options)
      const { id } = place.locker
      if (kind === 'this thread') place.locker.lockSync()
      else await take(holder, id)
      const workers = [await waiter(place, job), await waiter(place, job), await waiter(place, job)]
      await until('one stands at the gate', () => isWaitedFor(place.manager.path, id))
      for (const worker of workers) assert.is((await worker.kill()).code, 1)
      assert.equal(place.manager.locksHeld(), [id], 'the holder has it still')
      if (kind === 'this thread') place.locker.unlock()
      else await release(holder, id)
      await isWhole(place)
    })
  }
}

test('those who wait beside a Worker that is terminated get the lock', async () => {
  const place = segment()
  const { locker, manager } = place
  const peer = new ProcessPeer()
  await open(peer, place.options)
  for (const job of [blocks, awaits]) {
    const guard = locker.lockSync()
    const victim = await waiter(place, job)
    await until('it stands at the gate', () => isWaitedFor(manager.path, locker.id))
    const survivor = await waiter(place, async ({ locker, tell }, id) => {
      tell('waits')
      locker(id).lockSync().unlock()
      ;(await locker(id).lock()).unlock()
      tell('had it')
    })
    const there = take(peer, locker.id)
    const here = locker.lock()
    await victim.kill()
    guard.unlock()
    // Whichever is first, the other one is next: so each lets go as soon as it can.
    await Promise.all([here.then((guard) => guard.unlock()), there.then(() => release(peer, locker.id))])
    await survivor.hears('had it')
    await survivor.kill()
    await isWhole(place)
  }
})

test('a Worker that awaits a lock is terminated at any instant, in 100 rounds', async () => {
  const place = segment()
  const { locker } = place
  let next = new WorkerPeer()
  for (let round = 0; round < 100; round++) {
    const worker = next
    next = new WorkerPeer()
    await open(worker, place.options)
    const guard = locker.lockSync()
    worker.launch(async ({ locker, tell }, id) => {
      const waiting = locker(id).lock()
      tell('waits')
      for (let guard = await waiting; ; guard = await locker(id).lock()) {
        guard.unlock()
        await new Promise((resolve) => setImmediate(resolve))
      }
    }, locker.id)
    await worker.hears('waits')
    // Before the grant, about it, or later.
    for (let turns = Math.floor(Math.random() * 30); turns > 0; turns--) await turn()
    if (round % 4 !== 0) guard.unlock()
    for (let turns = Math.floor(Math.random() * 30); turns > 0; turns--) await turn()
    await worker.kill()
    if (round % 4 === 0) guard.unlock()
    // It may have been inside; what counts is that the lock lives on.
    const mine = round % 2 === 0 ? locker.lockSync() : await locker.lock()
    mine.markConsistent()
    mine.unlock()
  }
  await next.kill()
  await isWhole(place)
  await until('the helpers have gone', () => helpers() === 0)
})

test('a Worker that awaits 100 locks is terminated', async () => {
  const place = segment()
  const lockers = Array.from({ length: 100 }, () => place.manager.allocateLock())
  const guards = lockers.map((locker) => locker.lockSync())
  const worker = new WorkerPeer()
  await open(worker, place.options)
  worker.launch(async ({ locker, tell }, ids) => {
    const waiting = ids.map((id) => locker(id).lock())
    tell('waits')
    await Promise.all(waiting)
  }, lockers.map(({ id }) => id))
  await worker.hears('waits')
  await until('many are waited for', () => lockers.filter(({ id }) => isWaitedFor(place.manager.path, id)).length >= 64)
  await worker.kill()
  for (const guard of guards) guard.unlock()
  for (const locker of lockers) await isWhole({ ...place, locker })
})

test('the time of a vm script ends inside lockSync', async () => {
  const place = segment()
  const { locker, manager } = place
  const peer = new ProcessPeer()
  await open(peer, place.options)
  await take(peer, locker.id)
  const context = createContext({ locker })
  for (let round = 0; round < 3; round++) {
    // With and without a task of this thread that waits, too.
    const waiting = round === 1 ? locker.lock() : undefined
    assert.throws(
      () => runInContext('locker.lockSync()', context, { timeout: 50 }),
      (error: NodeJS.ErrnoException) => error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT',
    )
    assert.throws(() => locker.lockSync({ timeout: 1 }), /in time/)
    assert.equal(manager.locksHeld(), [locker.id])
    if (waiting === undefined) continue
    await release(peer, locker.id)
    ;(await waiting).unlock()
    await take(peer, locker.id)
  }
  await release(peer, locker.id)
  const guard = runInContext('locker.lockSync()', context, { timeout: 20_000 })
  guard.unlock()
  await isWhole(place)
})

test('the time of a vm script ends in the very slice that brings the lock', async () => {
  const place = segment()
  const { locker } = place
  const peer = new ProcessPeer()
  await open(peer, place.options)
  const scope: { locker: Locker; guard?: Guard | undefined } = { locker }
  const context = createContext(scope)
  for (let round = 0; round < 5; round++) {
    await take(peer, locker.id)
    const released = peer.run(async ({ guards, tell }, id) => {
      tell('soon')
      // A slice of waiting behind the holder is 100 ms.
      await new Promise((resolve) => setTimeout(resolve, 60))
      guards.get(id)?.unlock()
    }, locker.id)
    await peer.hears('soon')
    assert.throws(
      () => runInContext('guard = locker.lockSync()', context, { timeout: 20 }),
      (error: NodeJS.ErrnoException) => error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT',
    )
    await released
    // On a busy machine the end of the script's time may come when it has the guard already: then all is well.
    scope.guard?.unlock()
    scope.guard = undefined
    await isWhole(place)
  }
})

test('a Worker blocked in lockSync is terminated in the very slice that brings the lock: nobody is told', async () => {
  const place = segment()
  const { locker, manager } = place
  for (let round = 0; round < 5; round++) {
    const guard = locker.lockSync()
    const worker = await waiter(place, blocks)
    await until('it stands at the gate', () => isWaitedFor(manager.path, locker.id))
    const ended = worker.kill()
    guard.unlock()
    await ended
    await isWhole(place)
  }
})

test('the time of a vm script ends inside an unlock that hands the lock over: it has been, or it has not', async () => {
  const manager = openManager({ name: unique() })
  const lockers = Array.from({ length: 400 }, () => manager.allocateLock())
  for (let ends = 0; ends < 80; ) {
    const guards = lockers.map((locker) => locker.lockSync())
    const granted: Guard[] = []
    const waits = lockers.map(async (locker) => void granted.push(await locker.lock({ signal: new AbortController().signal })))
    const context = createContext({ guards, next: 0 })
    try {
      runInContext('for (; next < guards.length; next++) guards[next].unlock()', context, { timeout: 1 })
    } catch (error) {
      assert.is((error as NodeJS.ErrnoException).code, 'ERR_SCRIPT_EXECUTION_TIMEOUT')
      ends++
    }
    for (const guard of guards.slice(context['next'])) guard[Symbol.dispose]()
    await within(Promise.all(waits), 'every wait')
    for (const guard of granted) guard.unlock()
    assert.equal(manager.locksHeld(), [])
  }
})

test('the time of a vm script ends inside lockSync: a task of its thread gets its turn', async () => {
  const place = segment()
  const { locker } = place
  const peer = new ProcessPeer()
  await open(peer, place.options)
  await take(peer, locker.id)
  const waiting = locker.lock()
  assert.throws(
    () => runInContext('locker.lockSync()', createContext({ locker }), { timeout: 50 }),
    (error: NodeJS.ErrnoException) => error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT',
  )
  await release(peer, locker.id)
  ;(await within(waiting, 'the grant')).unlock()
  await isWhole(place)
})

test('the time of a vm script ends inside lockSync of a Worker', async () => {
  const place = segment()
  const guard = place.locker.lockSync()
  const worker = new WorkerPeer()
  await open(worker, place.options)
  const code = await worker.run(({ locker, vm }, id) => {
    try {
      vm.runInContext('locker.lockSync()', vm.createContext({ locker: locker(id) }), { timeout: 50 })
      return 'nothing was thrown'
    } catch (error) {
      return (error as NodeJS.ErrnoException).code
    }
  }, place.locker.id)
  assert.is(code, 'ERR_SCRIPT_EXECUTION_TIMEOUT')
  const waiting = take(worker, place.locker.id)
  guard.unlock()
  assert.is((await waiting).ownerDied, false)
  await release(worker, place.locker.id)
  await isWhole(place)
})

for (const job of [blocks, awaits]) {
  test(`process.exit() beside a Worker that ${job.name} a lock`, async () => {
    const place = segment()
    const guard = place.locker.lockSync()
    const peer: Peer = new ProcessPeer()
    await open(peer, place.options)
    peer.launch(
      async ({ workers, require, tell }, { options, id, source }) => {
        const worker = new workers.Worker(require.resolve('./agent.cjs'))
        const said = (kind: string): Promise<void> =>
          new Promise((resolve) => worker.on('message', (reply: { kind: string }) => reply.kind === kind && resolve()))
        await said('ready')
        worker.postMessage({ id: 1, source: '({ open }, options) => void open(options)', arg: options })
        await said('done')
        worker.postMessage({ id: 2, source, arg: id })
        await said('told')
        tell('a Worker waits')
      },
      { options: place.options, id: place.locker.id, source: job.toString() },
    )
    await peer.hears('a Worker waits')
    await until('it stands at the gate', () => isWaitedFor(place.manager.path, place.locker.id))
    peer.launch(() => process.exit(7))
    assert.equal(await peer.ended, { code: 7, signal: null })
    guard.unlock()
    await isWhole(place)
  })
}

test('process.exit() with a pending lock()', async () => {
  const place = segment()
  const guard = place.locker.lockSync()
  const peer = new ProcessPeer()
  await open(peer, place.options)
  peer.launch(awaits, place.locker.id)
  await until('it stands at the gate', () => isWaitedFor(place.manager.path, place.locker.id))
  peer.launch(() => process.exit(7))
  assert.equal(await peer.ended, { code: 7, signal: null })
  guard.unlock()
  await isWhole(place)
})

test.run()
