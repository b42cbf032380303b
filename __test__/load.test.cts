// How the package is loaded, and how a segment is opened: by whom, with what, how often.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import * as lib from 'robust-lock'
import { openManager, supported } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { afterScript, allows } from './fixtures/namespace.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { CHUNK_LOCKS, isWaitedFor } from './fixtures/segment.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('load')
const root = join(__dirname, '..', '..')

test('import() and require() give the same', async () => {
  const imported = (await import('robust-lock')) as typeof lib
  const required = require('robust-lock') as typeof lib
  assert.is(imported.openManager, required.openManager)
  assert.is(imported.LockError, required.LockError)
  assert.is(imported.supported, true)
  assert.equal(Object.keys(required).sort(), ['LockError', 'openManager', 'supported'])
  assert.is(require.resolve('robust-lock'), join(root, 'dist', 'index.cjs'))
  assert.is(require('robust-lock/package.json').name, 'robust-lock')
})

test('an ES module imports by name', () => {
  const source = `
    import { openManager, LockError, supported } from 'robust-lock'
    import * as all from 'robust-lock'
    import { createRequire } from 'node:module'
    const required = createRequire(import.meta.url)('robust-lock')
    openManager({ name: '${unique()}' }).allocateLock().lockSync().unlock()
    const same = openManager === required.openManager && LockError === required.LockError && supported === required.supported
    console.log(same && all.LockError === LockError)`
  assert.is(execFileSync(process.execPath, ['--input-type=module', '-e', source], { cwd: root, encoding: 'utf8' }), 'true\n')
})

test('importing loads no native module', () => {
  const source = `
    require('robust-lock')
    console.log(require('fs').readFileSync('/proc/self/maps', 'latin1').includes('robust-lock.'))`
  assert.is(execFileSync(process.execPath, ['-e', source], { cwd: root, encoding: 'utf8' }), 'false\n')
  assert.is(supported, true)
})

test('two copies of the library in one thread exclude each other', async () => {
  // Not in /dev/shm: it may be mounted noexec.
  const copy = mkdtempSync(join(tmpdir(), 'robust-lock-copy-'))
  try {
    cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true })
    for (const file of readdirSync(root)) {
      if (file.endsWith('.node') || file === 'package.json') cpSync(join(root, file), join(copy, file))
    }
    const other = require(join(copy, 'dist', 'index.cjs')) as typeof lib
    assert.is.not(other.openManager, openManager)
    const name = unique()
    const [a, b] = [openManager({ name }), other.openManager({ name })]
    assert.equal([a.created, b.created], [true, false])
    const { id } = a.allocateLock()
    const [one, two] = [a.retrieveLock(id), b.retrieveLock(id)]
    for (const [mine, theirs] of [[one, two], [two, one]] as const) {
      const guard = mine.lockSync()
      assert.is(theirs.tryLock(), undefined)
      throws(() => theirs.lockSync(), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
      throws(() => theirs.lockSync({ timeout: 100 }), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
      throws(() => theirs.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
      await rejects(theirs.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
      await rejects(theirs.lock({ timeout: 5 }), 'ERR_ROBUST_LOCK_TIMEOUT')
      const waiting = theirs.lock()
      await until('it waits', () => isWaitedFor(a.path, id))
      assert.equal(b.locksHeld(), [id])
      guard.unlock()
      const next = await waiting
      assert.is(next.token, guard.token + 1)
      assert.is(mine.tryLock(), undefined)
      next.unlock()
    }
    // Both wait at once, behind another process.
    const peer = new ProcessPeer()
    await open(peer, { name })
    await take(peer, id)
    const order: number[] = []
    const waits = [one, two, one, two].map((locker, i) => locker.withLock(() => order.push(i)))
    await until('it waits', () => isWaitedFor(a.path, id))
    await release(peer, id)
    await Promise.all(waits)
    assert.equal(order.filter((i) => i % 2 === 0), [0, 2])
    assert.equal(order.filter((i) => i % 2 === 1), [1, 3])
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
})

test('using and await using, compiled by TypeScript', async () => {
  const manager = openManager({ name: unique() })
  const locker = manager.allocateLock()
  {
    using guard = locker.lockSync()
    assert.equal(manager.locksHeld(), [guard.id])
    using none = locker.tryLock()
    assert.is(none, undefined)
  }
  assert.equal(manager.locksHeld(), [])
  const thrown = new Error('thrown on purpose')
  const section = async (): Promise<void> => {
    await using guard = await locker.lock()
    await null
    assert.equal(manager.locksHeld(), [guard.id])
    throw thrown
  }
  assert.is(await section().catch((error) => error), thrown)
  assert.equal(manager.locksHeld(), [])
  {
    // Let go before its end: the end does nothing.
    using guard = locker.lockSync()
    guard.unlock()
    using again = locker.lockSync()
    assert.ok(again.token > guard.token)
  }
  assert.equal(manager.locksHeld(), [])
})

test('withLock and withLockSync give back what the function gives, and let go', async () => {
  const manager = openManager({ name: unique() })
  const locker = manager.allocateLock()
  const thrown = new Error('thrown on purpose')
  assert.is(locker.withLockSync(({ id }) => `lock ${id}`), 'lock 0')
  assert.is(await locker.withLock(({ id }) => `lock ${id}`), 'lock 0')
  assert.is(await locker.withLock(async ({ token }) => typeof token), 'number')
  assert.throws(() => locker.withLockSync(() => {
    throw thrown
  }), (error: Error) => error === thrown)
  assert.is(await locker.withLock(() => Promise.reject(thrown)).catch((error) => error), thrown)
  // A section may let go by itself.
  locker.withLockSync((guard) => guard.unlock())
  await locker.withLock((guard) => guard.unlock())
  assert.equal(manager.locksHeld(), [])
})

test('one process opens a segment twice: one state, two managers', async () => {
  const name = unique()
  // The way there may lead over a link; only the segment itself may be none.
  const link = join(folder, unique())
  symlinkSync(folder, link)
  const [first, second] = [openManager({ name }), openManager({ path: join(link, name) })]
  assert.equal([first.created, second.created], [true, false])
  assert.equal([first.path, second.path], [join(folder, name), join(link, name)], 'each as it was opened')
  const one = first.allocateLock()
  assert.is(second.availableLocks(), 2047)
  const two = second.retrieveLock(one.id)
  const guard = one.lockSync()
  assert.is(two.tryLock(), undefined)
  throws(() => two.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  throws(() => two.lockSync(), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
  const waiting = two.lock()
  first.close()
  guard.unlock()
  await waiting
  two.unlock()
  two.free()
})

test('of 8 that open a segment at once one creates it', async () => {
  const peers = Array.from({ length: 8 }, () => new ProcessPeer())
  await Promise.all(peers.map((peer) => peer.run(() => 1)))
  // Two segments a round, and a process of 32 bits has room for six or so.
  for (let round = 0; round < (process.arch === 'arm' ? 2 : 20); round++) {
    const name = unique()
    const openers = peers.map((peer) => peer.run(({ open }, name) => open({ name }).created, name))
    assert.is((await Promise.all(openers)).filter((created) => created).length, 1)
    const ids = await Promise.all(peers.map((peer) => peer.run(({ manager }) => manager.allocateLock().id)))
    assert.equal(ids.sort(), [0, 1, 2, 3, 4, 5, 6, 7])
    const exclusively = unique()
    const creators = peers.map((peer) => peer.run(({ open }, name) => void open({ name, mode: 'create' }), exclusively))
    const outcomes = await Promise.allSettled(creators)
    const codes = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? 'created' : outcome.reason.code)).sort()
    assert.equal(codes, [...Array(7).fill('ERR_ROBUST_LOCK_EXISTS'), 'created'])
  }
})

test('the capacity grows while other processes lock, and never shrinks', async () => {
  const name = unique()
  const manager = openManager({ name, capacity: 4 })
  const ids = [0, 1, 2, 3].map(() => manager.allocateLock().id)
  throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  const peers = [new ProcessPeer(), new ProcessPeer()]
  for (const peer of peers) {
    await open(peer, { name })
    assert.is(await peer.run(({ manager }) => manager.capacity), 4)
    peer.launch(async ({ locker, guards, tell }, ids) => {
      for (let round = 0; !guards.has(-1); round++) {
        await locker(ids[round % 4] as number).withLock(() => {})
        if (round === 10) tell('at work')
        if (round % 10 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    }, ids)
    await peer.hears('at work')
  }
  for (const capacity of [5, 1000, 3, 2 ** 20]) {
    const opened = openManager({ name, capacity })
    const expected = Math.max(capacity, capacity === 3 ? 1000 : 0)
    assert.equal([opened.capacity, manager.capacity, opened.created], [expected, expected, false])
    assert.is(await (peers[0] as ProcessPeer).run(({ manager }) => manager.capacity), expected)
    if (capacity !== 3) assert.is(manager.allocateAndRetrieveLock(expected - 1).id, expected - 1)
  }
  assert.is(manager.availableLocks(), 2 ** 20 - 7)
  assert.is(manager.allocateLock().id, 5)
})

test('a segment for 2**20 locks takes no more memory than one for 2048', () => {
  const blocks = [2048, 2 ** 20].map((capacity) => statSync(openManager({ name: unique(), capacity }).path).blocks)
  assert.is(blocks[0], blocks[1])
  const manager = openManager({ name: unique(), capacity: 2 ** 20 })
  const before = statSync(manager.path).blocks
  // What only reads does not make it grow, and a lock far away brings one chunk.
  manager.availableLocks()
  manager.locksHeld()
  assert.is(statSync(manager.path).blocks, before)
  manager.allocateAndRetrieveLock(2 ** 20 - 1).lockSync().unlock()
  assert.is(statSync(manager.path).blocks, before + (CHUNK_LOCKS * 256) / 512)
})

test('the token grows across the making of a new segment', async () => {
  const name = unique()
  let last = 0
  for (let round = 0; round < 3; round++) {
    const peer = new ProcessPeer()
    await open(peer, { name, mode: 'create' })
    const path = await peer.run(({ manager }) => manager.path)
    for (const id of [0, 0, 0]) {
      const { token } = await take(peer, id)
      assert.ok(Number.isSafeInteger(token))
      assert.ok(token > last, `${token} > ${last}`)
      last = token
      await release(peer, id)
    }
    rmSync(path)
    await peer.kill()
  }
})

const iterables: [string, () => Iterable<number>][] = [
  ['an array', () => [3, 300, 3]],
  ['a Set', () => new Set([3, 300])],
  ['a typed array', () => Uint32Array.of(300, 3)],
  ['the keys of a Map', () => new Map([[3, 'a'], [300, 'b']]).keys()],
  ['a generator', function* () {
    yield 3
    yield 300
  }],
]
for (const [kind, inUse] of iterables) {
  test(`inUse, ${kind}: ids that are allocated from the first instant`, () => {
    const name = unique()
    const manager = openManager({ name, inUse: inUse() })
    assert.is(manager.created, true)
    assert.is(manager.availableLocks(), 2046)
    for (const id of [3, 300]) {
      throws(() => manager.allocateAndRetrieveLock(id), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
      manager.retrieveLock(id).lockSync().unlock()
    }
    assert.equal([0, 1, 2, 4].map(() => manager.allocateLock().id), [0, 1, 2, 4])
    manager.retrieveLock(300).free()
    const again = openManager({ name, inUse: [300, 7] })
    assert.equal([again.created, again.availableLocks()], [false, 2048 - 5], 'ignored when it exists')
  })
}

test('inUse, none', () => {
  assert.is(openManager({ name: unique(), inUse: [] }).availableLocks(), 2048)
})

test('inUse that throws creates nothing', () => {
  const name = unique()
  const thrown = new Error('thrown on purpose')
  const inUse = function* (): Generator<number> {
    yield 1
    throw thrown
  }
  assert.throws(() => openManager({ name, inUse: inUse() }), (error: Error) => error === thrown)
  assert.is(existsSync(join(folder, name)), false)
})

test('ROBUST_LOCK_DIR left out: a folder of the user in /dev/shm', async () => {
  // In a /dev/shm of its own: the user's real folder is nothing for tests.
  const wrapper = afterScript('mount -t tmpfs -o mode=1777 none /dev/shm')
  if (!allows(wrapper, 'the default folder')) return
  const peer = new ProcessPeer({ wrapper, env: { ROBUST_LOCK_DIR: '' } })
  const name = unique()
  const { path, uid, mode } = await peer.run(({ open, fs }, name) => {
    const { path } = open({ name })
    return { path, uid: process.geteuid?.(), mode: fs.statSync(path.slice(0, path.lastIndexOf('/'))).mode & 0o7777 }
  }, name)
  assert.is(path, `/dev/shm/robust-lock-${uid}/${name}`)
  assert.is(mode, 0o700)
})

test.run()
