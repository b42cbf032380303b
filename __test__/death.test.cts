// The ways in which a holder can end, and that whoever comes next is told.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager, type Locker, type Manager, type OpenOptions } from 'robust-lock'
import { rejects } from './fixtures/expect.cjs'
import { open, take, type How } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer, type End, type Peer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { isWaitedFor, owner, patch, wordAt } from './fixtures/segment.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('death')

function segment(): { manager: Manager; locker: Locker; options: OpenOptions } {
  const options = { name: unique() }
  const manager = openManager(options)
  return { manager, locker: manager.allocateLock(), options }
}

interface Way {
  title: string
  peer: () => Peer
  /** Acquires the lock, tells 'inside', and may end by itself. */
  inside: (scope: Scope, id: number) => unknown
  /** What ends it from outside. */
  end?: (peer: Peer) => Promise<End>
  /** With which code. */
  code?: number
}

const process_ = (): Peer => new ProcessPeer()
const worker = (): Peer => new WorkerPeer()
const kill = (peer: Peer): Promise<End> => peer.kill()

function blocksInside({ locker, tell, block }: Scope, id: number): void {
  locker(id).withLockSync(() => {
    tell('inside')
    block()
  })
}

function awaitsInside({ locker, tell }: Scope, id: number): Promise<void> {
  return locker(id).withLock(() => {
    tell('inside')
    return new Promise<void>(() => {})
  })
}

function exitsInSync({ locker, tell }: Scope, id: number): void {
  locker(id).withLockSync(() => {
    tell('inside')
    process.exit(3)
  })
}

function exitsInAsync({ locker, tell }: Scope, id: number): Promise<void> {
  return locker(id).withLock(async () => {
    tell('inside')
    await new Promise((resolve) => setImmediate(resolve))
    process.exit(3)
  })
}

function throwsInside({ locker, tell }: Scope, id: number): Promise<void> {
  return locker(id).withLock(async () => {
    tell('inside')
    setImmediate(() => {
      throw new Error('thrown on purpose by a holder')
    })
    await new Promise(() => {})
  })
}

function rejectsInside({ locker, tell }: Scope, id: number): void {
  locker(id).lockSync()
  tell('inside')
  void Promise.reject(new Error('rejected on purpose by a holder'))
}

/** Nothing is left to do: the Worker ends, and has its guard still. */
function endsInside({ locker, guards, workers, tell }: Scope, id: number): void {
  guards.set(id, locker(id).lockSync())
  tell('inside')
  workers.parentPort?.close()
}

/** The same for a process. */
function drainsInside({ locker, guards, tell }: Scope, id: number): void {
  guards.set(id, locker(id).lockSync())
  tell('inside')
  process.channel?.unref()
}

const ways: Way[] = [
  { title: 'SIGKILL, in a sync section', peer: process_, inside: blocksInside, end: kill },
  { title: 'SIGKILL, in an async section', peer: process_, inside: awaitsInside, end: kill },
  { title: 'SIGTERM', peer: process_, inside: awaitsInside, end: (peer) => peer.kill('SIGTERM') },
  { title: 'process.exit() in a sync section', peer: process_, inside: exitsInSync, code: 3 },
  { title: 'process.exit() in an async section', peer: process_, inside: exitsInAsync, code: 3 },
  { title: 'an uncaught exception', peer: process_, inside: throwsInside, code: 1 },
  { title: 'an unhandled rejection', peer: process_, inside: rejectsInside, code: 1 },
  { title: 'a process that has nothing left to do', peer: process_, inside: drainsInside, code: 0 },
  { title: 'worker.terminate() in a sync section', peer: worker, inside: blocksInside, end: kill },
  { title: 'worker.terminate() in an async section', peer: worker, inside: awaitsInside, end: kill },
  { title: 'process.exit() in a Worker, sync', peer: worker, inside: exitsInSync, code: 3 },
  { title: 'process.exit() in a Worker, async', peer: worker, inside: exitsInAsync, code: 3 },
  { title: 'an uncaught exception in a Worker', peer: worker, inside: throwsInside, code: 1 },
  { title: 'a Worker that has nothing left to do', peer: worker, inside: endsInside, code: 0 },
]

for (const { title, peer, inside, end, code } of ways) {
  test(`${title}: the next holder is told`, async () => {
    const { manager, locker, options } = segment()
    const victim = peer()
    await open(victim, options)
    victim.launch(inside, locker.id)
    await victim.hears('inside')
    const ended = await (end === undefined ? victim.ended : end(victim))
    if (code !== undefined) assert.is(ended.code, code)
    assert.equal(manager.locksHeld(), [], 'nobody has it')
    const guard = locker.lockSync()
    assert.is(guard.ownerDied, true)
    guard.markConsistent()
    guard.unlock()
    assert.is((await locker.lock()).ownerDied, false)
    locker.unlock()
  })
}

for (const how of ['sync', 'async'] as const) {
  test(`whoever waits, ${how}, when the holder is killed gets the lock and is told`, async () => {
    const { manager, locker, options } = segment()
    for (const makeWaiter of [process_, worker]) {
      for (const inside of [blocksInside, awaitsInside]) {
        const [victim, waiter] = [new ProcessPeer(), makeWaiter()]
        await open(victim, options)
        await open(waiter, options)
        victim.launch(inside, locker.id)
        await victim.hears('inside')
        const waiting = take(waiter, locker.id, how)
        await until('somebody waits', () => isWaitedFor(manager.path, locker.id))
        await victim.kill()
        assert.is((await waiting).ownerDied, true)
        await waiter.run(({ guards }, id) => {
          guards.get(id)?.markConsistent()
          guards.get(id)?.unlock()
        }, locker.id)
        assert.is((await locker.lock()).ownerDied, false)
        locker.unlock()
      }
    }
  })
}

test('the tasks of this thread: the first is told, and after its repair no other', async () => {
  const { locker, options } = segment()
  const victim = new ProcessPeer()
  await open(victim, options)
  victim.launch(awaitsInside, locker.id)
  await victim.hears('inside')
  const told: boolean[] = []
  const tasks = Array.from({ length: 5 }, (_, i) =>
    locker.withLock((guard) => {
      told.push(guard.ownerDied)
      // The first one does not come to it.
      if (i === 1) guard.markConsistent()
    }),
  )
  await victim.kill()
  await Promise.all(tasks)
  assert.equal(told, [true, true, false, false, false])
})

test('a waiter that is killed is no false alarm', async () => {
  const { manager, locker, options } = segment()
  for (let round = 0; round < 4; round++) {
    for (const how of ['sync', 'async'] as How[]) {
      const guard = locker.lockSync()
      const victims = [new ProcessPeer(), new ProcessPeer(), new WorkerPeer()]
      for (const victim of victims) {
        await open(victim, options)
        victim.launch(
          async ({ locker, tell }, { id, how }) => {
            tell('going to wait')
            if (how === 'sync') locker(id).lockSync()
            else await locker(id).lock()
            throw new Error('it cannot have got the lock')
          },
          { id: locker.id, how },
        )
        await victim.hears('going to wait')
      }
      await until('somebody waits', () => isWaitedFor(manager.path, locker.id))
      await Promise.all(victims.map((victim) => victim.kill()))
      guard.unlock()
      const next = round % 2 === 0 ? locker.lockSync() : await locker.lock()
      assert.is(next.ownerDied, false)
      next.unlock()
      await until('the gates are open', () => !isWaitedFor(manager.path, locker.id))
    }
  }
})

test('a stopped holder is not a dead one', async () => {
  const { manager, locker, options } = segment()
  const holder = new ProcessPeer()
  await open(holder, options)
  await take(holder, locker.id)
  holder.child.kill('SIGSTOP')
  assert.is(locker.tryLock(), undefined)
  await rejects(locker.lock({ timeout: 600 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  assert.equal(manager.locksHeld(), [locker.id])
  const waiting = locker.lock()
  holder.child.kill('SIGCONT')
  await holder.run(({ guards }, id) => guards.get(id)?.unlock(), locker.id)
  assert.is((await waiting).ownerDied, false)
  locker.unlock()
})

for (const how of ['tryLock', 'lockSync', 'lock'] as const) {
  test(`a death that the kernel lost is found by ${how}`, async () => {
    const { manager, locker, options } = segment()
    const victim = new ProcessPeer()
    await open(victim, options)
    await take(victim, locker.id)
    const tid = owner(manager.path, locker.id, 'main')
    await victim.kill()
    assert.is(owner(manager.path, locker.id, 'main'), 0, 'the kernel has marked it')
    patch(manager.path, wordAt(manager.path, locker.id, 'main'), Uint32Array.of(tid))
    const guard = how === 'tryLock' ? locker.tryLock() : how === 'lockSync' ? locker.lockSync() : await locker.lock()
    assert.is(guard?.ownerDied, true)
    guard?.unlock()
  })
}

test('guard.unlock(); process.exit(0) is no death, in many processes', async () => {
  const { manager, options } = segment()
  const ids = Array.from({ length: 50 }, () => manager.allocateLock().id)
  const one = async (): Promise<void> => {
    const peer = new ProcessPeer()
    await open(peer, options)
    peer.launch(async ({ manager }, ids) => {
      for (const id of ids) {
        const locker = manager.retrieveLock(id)
        const guard = id % 2 === 0 ? locker.lockSync() : await locker.lock()
        await null
        guard.unlock()
      }
      process.exit(0)
    }, ids)
    assert.is((await peer.ended).code, 0)
    for (const id of ids) {
      const locker = manager.retrieveLock(id)
      const guard = id % 3 === 0 ? locker.lockSync() : await locker.lock()
      assert.is(guard.ownerDied, false)
      guard.unlock()
    }
  }
  for (let round = 0; round < 12; round++) await Promise.all([one(), one(), one()])
})

test('guard.unlock(); process.exit(0) is no death, in many Workers', async () => {
  const { locker, options } = segment()
  for (let round = 0; round < 60; round++) {
    const worker = new WorkerPeer()
    await open(worker, options)
    const held = round % 2 === 0 ? undefined : await locker.lock()
    worker.launch(async ({ locker, tell }, id) => {
      const waiting = locker(id).lock()
      tell('waits or has it')
      const guard = await waiting
      guard.unlock()
      process.exit(0)
    }, locker.id)
    await worker.hears('waits or has it')
    held?.unlock()
    assert.is((await worker.ended).code, 0)
    assert.is((await locker.lock()).ownerDied, false)
    locker.unlock()
  }
})

test('a storm of kills: nobody sees half a change who is not told', async () => {
  const { manager, locker, options } = segment()
  const [left, right] = [join(folder, 'left'), join(folder, 'right')]
  for (const side of [left, right]) writeFileSync(side, '0')
  /** Counts two files up, one after the other; a kill in between leaves them unequal. */
  const count = async ({ fs, locker, tell }: Scope, { id, left, right }: { id: number; left: string; right: string }): Promise<void> => {
    const read = (file: string): number => Number(fs.readFileSync(file, 'utf8'))
    for (let round = 0; ; round++) {
      const guard = round % 2 === 0 ? locker(id).lockSync() : await locker(id).lock()
      if (guard.ownerDied) {
        tell('was told')
        fs.writeFileSync(`${right}.new`, String(read(left)))
        fs.renameSync(`${right}.new`, right)
        guard.markConsistent()
      } else if (read(left) !== read(right)) {
        tell('saw half a change')
      }
      for (const side of [left, right]) {
        fs.writeFileSync(`${side}.new`, String(read(side) + 1))
        fs.renameSync(`${side}.new`, side)
      }
      guard.unlock()
      if (round === 3) tell('at work')
    }
  }
  const start = async (): Promise<Peer> => {
    const peer = new ProcessPeer()
    await open(peer, options)
    peer.launch(count, { id: locker.id, left, right })
    void peer.hears('saw half a change').then(
      () => (torn = true),
      () => {},
    )
    await peer.hears('at work')
    return peer
  }
  let torn = false
  const peers = await Promise.all([start(), start(), start()])
  for (let round = 0; round < 24; round++) {
    const victim = peers.shift() as Peer
    for (let turns = Math.floor(Math.random() * 200); turns > 0; turns--) await turn()
    await victim.kill()
    peers.push(await start())
  }
  await Promise.all(peers.map((peer) => peer.kill()))
  assert.is(torn, false)
  await locker.withLock(({ ownerDied }) => {
    if (!ownerDied) assert.is(readFileSync(left, 'utf8'), readFileSync(right, 'utf8'))
  })
  assert.equal(manager.locksHeld(), [])
})

test.run()
