// Waiting: in order, for as long as was asked for, and beside a lockSync of the same thread.
import { existsSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager, type Guard, type Locker } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { heldElsewhere, holderOfFile, isFree, segment } from './fixtures/place.cjs'
import { isWaitedFor, offers, owner, wordAt } from './fixtures/segment.cjs'
import { suite } from './fixtures/suite.cjs'
import { until, within } from './fixtures/within.cjs'

const test = suite('waiting')

test('a timeout of 0 makes one try', async () => {
  const place = segment()
  const { locker } = place
  locker.lockSync({ timeout: 0 }).unlock()
  const guard = await locker.lock({ timeout: 0 })
  await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  guard.unlock()
  const holder = await heldElsewhere(place)
  await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  throws(() => locker.lockSync({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await release(holder, locker.id)
  await isFree(place)
})

test('a timeout of 0 does not overtake the tasks of its thread', async () => {
  const place = segment()
  const { locker } = place
  const holder = await holderOfFile(place)
  const first = locker.lock()
  holder.letGo()
  while (owner(place.manager.path, locker.id, 'main') !== 0);
  await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  ;(await first).unlock()
  await isFree(place)
})

test('a small timeout ends the wait, for this thread and for another process', async () => {
  const place = segment()
  const { locker } = place
  const guard = locker.lockSync()
  await rejects(locker.lock({ timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await rejects(locker.lock({ timeout: 0.5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  guard.unlock()
  const holder = await heldElsewhere(place)
  await rejects(locker.lock({ timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  throws(() => locker.lockSync({ timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await rejects(locker.withLock(() => assert.unreachable(), { timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  throws(() => locker.withLockSync(() => assert.unreachable(), { timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await release(holder, locker.id)
  await isFree(place)
})

test('long timeouts do not fire at once, nor warn', async () => {
  const place = segment()
  const { locker } = place
  const warnings: Error[] = []
  const keep = (warning: Error): unknown => warnings.push(warning)
  process.on('warning', keep)
  const holder = await heldElsewhere(place)
  const long = [2 ** 31 - 1, 2 ** 31, 2 ** 32 + 1, 2 ** 53, Number.MAX_VALUE, Infinity]
  const granted: number[] = []
  const waits = long.map(async (timeout) => {
    const guard = await locker.lock({ timeout })
    granted.push(timeout)
    guard.unlock()
  })
  await rejects(locker.lock({ timeout: 30 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.equal(granted, [])
  const worker = new WorkerPeer()
  await open(worker, place.options)
  const blocked = worker.run(({ locker }, { id, long }) => {
    for (const timeout of long) locker(id).lockSync({ timeout }).unlock()
  }, { id: locker.id, long })
  await release(holder, locker.id)
  await Promise.all(waits)
  await blocked
  process.off('warning', keep)
  assert.equal(granted, long)
  assert.equal(warnings, [])
  await isFree(place)
})

test('a timeout that is noticed late makes a last try', async () => {
  const place = segment()
  const { locker } = place
  const holder = await holderOfFile(place)
  const waiting = locker.lock({ timeout: 1 })
  // All in one turn of the loop: when the timer fires at last, the lock is free.
  holder.letGo()
  const begun = performance.now()
  while (owner(place.manager.path, locker.id, 'main') !== 0 || performance.now() - begun < 20);
  ;(await waiting).unlock()
  await isFree(place)
})

test('waits are granted in order, whatever lies between them', async () => {
  const place = segment()
  const second = openManager(place.options).retrieveLock(place.locker.id)
  const lockers = [place.locker, place.manager.retrieveLock(place.locker.id), second]
  for (const elsewhere of [false, true]) {
    const holder = elsewhere ? await heldElsewhere(place) : undefined
    const guard = elsewhere ? undefined : place.locker.lockSync()
    const order: number[] = []
    const fates: Promise<unknown>[] = []
    const abort = new AbortController()
    for (let i = 0; i < 60; i++) {
      const options = i % 5 === 1 ? { signal: abort.signal } : i % 5 === 3 ? { timeout: 1 } : {}
      const wait = (lockers[i % 3] as Locker).withLock(() => order.push(i), options)
      fates.push(wait.catch(() => {}))
    }
    abort.abort()
    await rejects(place.locker.lock({ timeout: 20 }), 'ERR_ROBUST_LOCK_TIMEOUT')
    guard?.unlock()
    if (holder !== undefined) await release(holder, place.locker.id)
    await Promise.all(fates)
    const expected = [...Array(60).keys()].filter((i) => i % 5 !== 1 && i % 5 !== 3)
    assert.equal(order, expected)
    await isFree(place)
  }
})

test('lockSync overtakes the tasks of its thread, and they get their turn', async () => {
  const place = segment()
  const { locker } = place
  const holder = await holderOfFile(place)
  const order: string[] = []
  const tasks = ['first', 'second'].map((name) => locker.withLock(() => order.push(name)))
  // With the helper on its way, and with the helper at the gate.
  await until('it waits', () => isWaitedFor(place.manager.path, locker.id))
  holder.letGo()
  const guard = locker.lockSync()
  order.push('lockSync')
  await holder.done
  await turn()
  assert.equal(order, ['lockSync'])
  guard.unlock()
  await Promise.all(tasks)
  assert.equal(order, ['lockSync', 'first', 'second'])
  await isFree(place)
})

test('a task whose thread lets another process go first gets its turn after it', async () => {
  const place = segment()
  const { locker, manager } = place
  const peer = new ProcessPeer()
  await open(peer, place.options)
  const guard = locker.lockSync()
  const waiting = locker.lock()
  // It stands at the gate: so the lock is let go, not handed on in this thread.
  const other = peer.run(({ locker }, id) => locker(id).lockSync().unlock(), locker.id)
  await until('it waits', () => isWaitedFor(manager.path, locker.id))
  guard.unlock()
  await other
  ;(await within(waiting, 'its turn')).unlock()
  await isFree(place)
})

test('lockSync behind an offer to its own thread that is not delivered yet', async () => {
  const place = segment()
  const { locker, manager } = place
  const holder = await holderOfFile(place)
  const waiting = locker.lock()
  await until('it waits', () => isWaitedFor(manager.path, locker.id))
  holder.letGo()
  // The helper gets the lock, lets go of it and calls: this thread is too busy to listen.
  while (owner(manager.path, locker.id, 'main') !== 0);
  locker.lockSync().unlock()
  ;(await waiting).unlock()
  await holder.done
  await isFree(place)
})

test('lockSync that is out of time, or a tryLock, leaves the tasks of its thread their turn', async () => {
  const place = segment()
  const { locker, manager } = place
  for (const calm of [true, false]) {
    const holder = await heldElsewhere(place)
    const waiting = locker.lock()
    if (calm) await until('it waits', () => isWaitedFor(manager.path, locker.id))
    throws(() => locker.lockSync({ timeout: 1 }), 'ERR_ROBUST_LOCK_TIMEOUT')
    if (!calm) assert.is(locker.tryLock(), undefined)
    await release(holder, locker.id)
    ;(await waiting).unlock()
    await isFree(place)
  }
})

test('a tryLock that comes before the task: the task is next', async () => {
  const place = segment()
  const { locker, manager } = place
  const holder = await holderOfFile(place)
  const waiting = locker.lock()
  holder.letGo()
  while (owner(manager.path, locker.id, 'main') !== 0);
  let settled = false
  void waiting.then(() => (settled = true))
  // The helper may have main for an instant itself.
  let guard: Guard | undefined
  while (guard === undefined) guard = locker.tryLock()
  for (let turns = 0; turns < 20; turns++) await turn()
  assert.is(settled, false)
  guard.unlock()
  ;(await waiting).unlock()
  await holder.done
  await isFree(place)
})

test('who joins the tasks of its thread leaves the offer that is on its way to them', async () => {
  let inTime = false
  const { manager, options } = segment()
  for (let attempts = 0; !inTime && attempts < 50; attempts++) {
    // Another lock each time: with each offer that is missed a lock's next one stands for a shorter time.
    const place = { manager, options, locker: manager.allocateLock() }
    const { locker } = place
    const holder = await holderOfFile(place)
    const before = offers(manager.path, locker.id)
    const waits = [locker.lock()]
    await until('it waits', () => isWaitedFor(manager.path, locker.id))
    // All in one turn of the loop: the offer stands, and is not delivered. It has been made since `begun`.
    let begun = performance.now()
    let looked = begun
    holder.letGo()
    do [begun, looked] = [looked, performance.now()]
    while (offers(manager.path, locker.id) === before)
    for (let joined = 1; joined <= 3; joined++) {
      waits.push(locker.lock())
      while (performance.now() - begun < joined * 0.5);
    }
    const made = offers(manager.path, locker.id) - before
    // Longer than 5 ms it does not stand. On a busy machine it takes more than one attempt.
    inTime = performance.now() - begun < 3
    if (inTime) assert.is(made, 1)
    for (const wait of waits) (await wait).unlock()
    await isFree(place)
  }
  assert.ok(inTime, 'in one of 50 attempts')
})

test('a thread that comes too late for its turn, and finds the lock taken, waits again', async () => {
  const place = segment()
  const { locker, manager } = place
  const holder = await holderOfFile(place)
  const taker = new ProcessPeer()
  await open(taker, place.options)
  const waiting = locker.lock()
  await until('it waits', () => isWaitedFor(manager.path, locker.id))
  // Once the gate, which the helper has, is open beside a free lock, the helper has offered in vain and gone.
  const words = (['main', 'gate a', 'gate b'] as const).map((mutex) => wordAt(manager.path, locker.id, mutex))
  taker.launch(({ fs, locker, guards, tell }, { path, id, words }) => {
    const file = fs.openSync(path, 'r')
    const word = new Uint32Array(1)
    const isFree = (at: number): boolean => {
      fs.readSync(file, word, 0, 4, at)
      return ((word[0] as number) & 0x3fff_ffff) === 0
    }
    tell('looks for the offer to pass')
    let guard
    while (guard === undefined) if (words.every(isFree)) guard = locker(id).tryLock()
    fs.closeSync(file)
    guards.set(id, guard)
  }, { path: manager.path, id: locker.id, words })
  await taker.hears('looks for the offer to pass')
  holder.letGo()
  while (owner(manager.path, locker.id, 'main') !== taker.pid);
  for (let turns = 0; turns < 20; turns++) await turn()
  await release(taker, locker.id)
  ;(await waiting).unlock()
  await holder.done
  await isFree(place)
})

test('a wait goes on in the context that it began in, and the first one of a thread does not keep it', async () => {
  const { locker, options } = segment()
  const guard = locker.lockSync()
  const worker = new WorkerPeer()
  await open(worker, options)
  const found = worker.run(async ({ locker, require, vm, tell }, id) => {
    const { AsyncLocalStorage } = require('node:async_hooks') as typeof import('node:async_hooks')
    const storage = new AsyncLocalStorage<object>()
    // A function of its own: what it has on its stack goes with it.
    const wait = async (): Promise<[boolean, WeakRef<object>]> => {
      const request = {}
      const told = storage.run(request, async () => {
        const guard = await locker(id).lock()
        guard.unlock()
        return storage.getStore() === request
      })
      tell('waits')
      return [await told, new WeakRef(request)]
    }
    const [goesOn, request] = await wait()
    const { setFlagsFromString } = require('node:v8') as typeof import('node:v8')
    setFlagsFromString('--expose-gc')
    const gc = vm.runInNewContext('gc') as () => void
    for (let i = 0; i < 10 && request.deref() !== undefined; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10))
      gc()
    }
    return { goesOn, isKept: request.deref() !== undefined }
  }, locker.id)
  await worker.hears('waits')
  guard.unlock()
  assert.equal(await found, { goesOn: true, isKept: false })
})

test('lockSync of a lock that this thread holds is refused at once', async () => {
  const { locker, manager, options } = segment()
  const others = [locker, manager.retrieveLock(locker.id), openManager(options).retrieveLock(locker.id)]
  for (const acquire of [() => locker.lockSync(), () => locker.lock(), () => locker.tryLock()]) {
    const guard = await acquire()
    for (const other of others) {
      for (const wait of [undefined, { timeout: 0 }, { timeout: 1000 }, { timeout: Infinity }]) {
        throws(() => other.lockSync(wait), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
      }
      throws(() => other.withLockSync(() => assert.unreachable()), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
    }
    assert.equal(manager.locksHeld(), [locker.id])
    guard?.unlock()
  }
  assert.equal(manager.locksHeld(), [])
})

for (const how of ['sync', 'async'] as const) {
  test(`a stopped process that waits, ${how}, does not keep the others from the lock`, async () => {
    const place = segment()
    const { locker, manager } = place
    const guard = locker.lockSync()
    const stopped = new ProcessPeer()
    await open(stopped, place.options)
    const late = take(stopped, locker.id, how)
    await until('it stands at the gate', () => isWaitedFor(manager.path, locker.id))
    stopped.child.kill('SIGSTOP')
    const worker = new WorkerPeer()
    await open(worker, place.options)
    const [sync, async] = [take(worker, locker.id), locker.lock()]
    guard.unlock()
    await Promise.all([sync.then(() => release(worker, locker.id)), async.then((guard) => guard.unlock())])
    stopped.child.kill('SIGCONT')
    assert.is((await late).ownerDied, false)
    await release(stopped, locker.id)
    await isFree(place)
    assert.ok(existsSync(manager.path))
  })
}

test.run()
