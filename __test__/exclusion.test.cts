// One at a time: between processes, between Worker threads, and between the tasks of one thread.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { open, release, take, tryTake } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { here, type Scope } from './fixtures/scope.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'

const test = suite('exclusion')

interface Counting {
  id: number
  counter: string
  log: string
  rounds: number
  how: 'sync' | 'async' | 'both'
}

/** Reads a number out of a file and writes the next one: only with the lock is that safe. */
async function countInFile({ fs, locker }: Scope, { id, counter, log, rounds, how }: Counting): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    if (how === 'sync' || (how === 'both' && i % 2 === 0)) {
      locker(id).withLockSync(({ token }) => {
        const count = Number(fs.readFileSync(counter, 'utf8'))
        fs.appendFileSync(log, `${token}\n`)
        fs.writeFileSync(counter, String(count + 1))
      })
    } else {
      await locker(id).withLock(async ({ token }) => {
        const count = Number(await fs.promises.readFile(counter, 'utf8'))
        await fs.promises.appendFile(log, `${token}\n`)
        await fs.promises.writeFile(counter, String(count + 1))
      })
    }
  }
}

test('8 processes and a counter in a file, sync and async mixed', async () => {
  const [counter, log] = [join(folder, 'counter'), join(folder, 'log')]
  writeFileSync(counter, '0')
  const options = { name: unique() }
  const manager = openManager(options)
  const { id } = manager.allocateLock()
  const peers = Array.from({ length: 8 }, () => new ProcessPeer())
  await Promise.all(peers.map((peer) => open(peer, options)))
  const hows = ['sync', 'async', 'both'] as const
  const rounds = 200
  await Promise.all(
    peers.map((peer, i) => peer.run(countInFile, { id, counter, log, rounds, how: hows[i % 3] as (typeof hows)[number] })),
  )
  assert.is(Number(readFileSync(counter, 'utf8')), 8 * rounds)
  const tokens = readFileSync(log, 'utf8').trimEnd().split('\n').map(Number)
  const first = tokens[0] as number
  assert.equal(tokens, tokens.map((_, i) => first + i), 'every acquisition has the next token')
  assert.equal(manager.locksHeld(), [])
})

interface SharedCounting {
  id: number
  memory: SharedArrayBuffer
  rounds: number
  how: 'sync' | 'async'
}

/** The same in memory that threads share: a read and a write with some time between them. */
async function countInMemory({ locker }: Scope, { id, memory, rounds, how }: SharedCounting): Promise<void> {
  const cells = new Int32Array(memory)
  for (let i = 0; i < rounds; i++) {
    if (how === 'sync') {
      const guard = locker(id).lockSync()
      const count = cells[0] as number
      for (let spin = 0; spin < 500; spin++) Atomics.load(cells, 1)
      cells[0] = count + 1
      guard.unlock()
    } else {
      const guard = await locker(id).lock()
      const count = cells[0] as number
      await new Promise((resolve) => setImmediate(resolve))
      cells[0] = count + 1
      guard.unlock()
    }
  }
}

test('Worker threads and the main thread of one process', async () => {
  const memory = new SharedArrayBuffer(8)
  const options = { name: unique() }
  const main = here()
  await open(main, options)
  const { id } = main.scope.manager.allocateLock()
  const workers = Array.from({ length: 4 }, () => new WorkerPeer())
  await Promise.all(workers.map((worker) => open(worker, options)))
  const rounds = 500
  await Promise.all([
    ...workers.map((worker, i) => worker.run(countInMemory, { id, memory, rounds, how: i % 2 === 0 ? ('sync' as const) : ('async' as const) })),
    countInMemory(main.scope, { id, memory, rounds, how: 'async' }),
  ])
  assert.is(new Int32Array(memory)[0], 5 * rounds)
})

test('10,000 tasks of one thread, first in, first out', async () => {
  const locker = openManager({ name: unique() }).allocateLock()
  const order: number[] = []
  const tokens: number[] = []
  let inside = 0
  const first = locker.lockSync()
  const tasks = Array.from({ length: 10_000 }, (_, i) =>
    locker.withLock(async ({ token }) => {
      assert.is(++inside, 1)
      // A task now and then is away for a turn of the loop, the others for a tick.
      await (i % 100 === 0 ? turn() : undefined)
      order.push(i)
      tokens.push(token)
      assert.is(--inside, 0)
    }),
  )
  await turn()
  assert.is(order.length, 0, 'nobody gets in while it is held')
  first.unlock()
  await Promise.all(tasks)
  assert.equal(order, [...order.keys()])
  assert.equal(tokens, order.map((i) => first.token + 1 + i))
  assert.ok(locker.tryLock(), 'it is free')
  locker.unlock()
})

test('the tasks of a thread keep their order beside another process', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const locker = manager.allocateLock()
  const peer = new ProcessPeer()
  await open(peer, options)
  let enough = false
  const beside = peer.run(async ({ locker }, id) => {
    for (let round = 0; round < 100; round++) {
      const guard = round % 2 === 0 ? locker(id).lockSync() : await locker(id).lock()
      guard.unlock()
    }
  }, locker.id)
  void beside.then(() => (enough = true))
  const order: number[] = []
  let tasks = 0
  while (!enough) {
    const batch = Array.from({ length: 100 }, () => tasks++)
    await Promise.all(batch.map((task) => locker.withLock(() => order.push(task))))
    // Uncontended, all that was in one turn of the loop; the other process's word comes in another.
    await turn()
  }
  await beside
  assert.ok(tasks > 0)
  assert.equal(order, [...Array(tasks).keys()])
})

test('tryLock gets a free lock and waits for nobody', async () => {
  const options = { name: unique() }
  const main = here()
  await open(main, options)
  const { id } = main.scope.manager.allocateLock()
  const other = main.scope.manager.retrieveLock(id)
  for (const party of [main, new WorkerPeer(), new ProcessPeer()]) {
    if (party !== main) await open(party, options)
    const taken = await tryTake(party, id)
    assert.ok(taken)
    assert.is(taken?.ownerDied, false)
    assert.is(await tryTake(party, id), undefined, 'its own thread has it')
    assert.is(other.tryLock(), undefined, 'somebody has it')
    await release(party, id)
    const again = other.tryLock()
    assert.is(again?.token, (taken?.token as number) + 1)
    again?.unlock()
  }
})

test('locks of other ids and other segments do not get in the way', async () => {
  const [one, two] = [openManager({ name: unique() }), openManager({ name: unique() })]
  const guards = [one.allocateLock(), one.allocateLock(), two.allocateLock()].map((locker) => locker.lockSync())
  assert.equal(guards.map(({ id }) => id), [0, 1, 0])
  assert.equal([one.locksHeld(), two.locksHeld()], [[0, 1], [0]])
  for (const guard of guards) guard.unlock()
})

test('whoever waits gets in after a holder of any kind', async () => {
  const options = { name: unique() }
  const main = here()
  await open(main, options)
  const { id } = main.scope.manager.allocateLock()
  const [worker, peer] = [new WorkerPeer(), new ProcessPeer()]
  await open(worker, options)
  await open(peer, options)
  let last = 0
  for (const holder of [main, worker, peer]) {
    for (const waiter of [main, worker, peer]) {
      // This thread must not block: it is the one that tells the holder to let go.
      for (const how of waiter === main || waiter === holder ? (['async'] as const) : (['sync', 'async'] as const)) {
        const { token } = await take(holder, id)
        const waiting = take(waiter, id, how)
        await release(holder, id)
        const taken = await waiting
        assert.ok(token > last && taken.token > token)
        assert.is(taken.ownerDied, false)
        last = taken.token
        await release(waiter, id)
      }
    }
  }
})

test('a native call that comes back without an answer acquires nothing', async () => {
  const locker = openManager({ name: unique() }).allocateLock()
  const { load } = require(join(__dirname, '..', '..', 'dist', 'native.cjs')) as { load: (...callbacks: (() => void)[]) => Record<'tryLock' | 'tryInTurn', () => undefined> }
  const native = load(() => {}, () => {})
  const { tryLock, tryInTurn } = native
  native.tryLock = native.tryInTurn = () => undefined
  try {
    for (let i = 0; i < 2; i++) {
      assert.throws(() => locker.lockSync(), /gave no word/)
      assert.throws(() => locker.tryLock(), /gave no word/)
      await locker.lock().then(() => assert.unreachable(), (error: Error) => assert.match(error.message, /gave no word/))
    }
  } finally {
    Object.assign(native, { tryLock, tryInTurn })
  }
  locker.lockSync().unlock()
  const guard = await locker.lock()
  assert.is(locker.tryLock(), undefined)
  guard.unlock()
})

test.run()
