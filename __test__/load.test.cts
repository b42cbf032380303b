// How the package is loaded, opened again, grown, and embedded twice.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync, unlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import * as lib from 'robust-lock'
import { LockError, openManager, supported } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { deferred } from './fixtures/within.cjs'

const test = suite('load')
const root = join(__dirname, '..', '..')

test('import and require give the same classes, and named imports work', async () => {
  // Not what tsc makes of `import`, which in a CommonJS file could be require.
  const dynamic = new Function('name', 'return import(name)') as (name: string) => Promise<typeof lib>
  const esm = await dynamic(createRequire(__filename).resolve('robust-lock'))
  assert.is(esm.LockError, LockError)
  assert.is(esm.openManager, openManager)
  assert.is(esm.supported, true)
  assert.ok(supported)
  assert.equal(Object.keys(esm).filter((name) => !['default', 'module.exports', '__esModule'].includes(name)).toSorted(), ['LockError', 'openManager', 'supported'])
})

test('two copies of the library in one thread exclude each other', async () => {
  const copy = join(folder, 'copy')
  mkdirSync(join(copy, 'dist'), { recursive: true })
  for (const file of readdirSync(join(root, 'dist'))) copyFileSync(join(root, 'dist', file), join(copy, 'dist', file))
  for (const file of readdirSync(root).filter((name) => name.endsWith('.node'))) copyFileSync(join(root, file), join(copy, file))
  const other = createRequire(__filename)(join(copy, 'dist', 'index.cjs')) as typeof lib
  assert.is.not(other.LockError, LockError)

  const name = unique()
  const ours = openManager({ name }).allocateLock()
  const theirs = other.openManager({ name }).retrieveLock(ours.id)
  const guard = ours.lockSync()
  assert.is(theirs.tryLock(), undefined)
  throws(() => theirs.lockSync(), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
  throws(() => theirs.lockSync({ timeout: 10 }), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
  throws(() => theirs.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  await rejects(theirs.lock({ timeout: 10 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  const wait = theirs.lock()
  guard.unlock()
  const granted = await wait
  assert.is(ours.tryLock(), undefined)
  assert.is(granted.token, guard.token + 1)
  granted.unlock()
})

test('managers of one process share a segment, and close for themselves', async () => {
  const name = unique()
  const [one, two] = [openManager({ name }), openManager({ name })]
  assert.equal([one.created, two.created], [true, false])
  assert.is(one.path, join(folder, name))
  const locker = one.allocateLock()
  const guard = locker.lockSync()
  assert.is(two.retrieveLock(locker.id).tryLock(), undefined)
  const wait = two.retrieveLock(locker.id).lock()
  const pending = one.retrieveLock(locker.id).lock()
  one.close()
  one.close()
  await rejects(pending, 'ERR_ROBUST_LOCK_CLOSED')
  for (const call of [() => one.allocateLock(), () => one.retrieveLock(0), () => one.allocateAndRetrieveLock(5), () => one.freeAllLocks(), () => one.availableLocks(), () => one.locksHeld(), () => locker.lockSync(), () => locker.tryLock(), () => locker.free()]) {
    throws(call, 'ERR_ROBUST_LOCK_CLOSED')
  }
  await rejects(locker.lock(), 'ERR_ROBUST_LOCK_CLOSED')
  assert.equal(two.locksHeld(), [locker.id])
  locker.unlock()
  throws(() => guard.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  ;(await wait).unlock()
  {
    using third = openManager({ path: two.path })
    assert.is(third.availableLocks(), 2047)
  }
})

test('a collected manager leaves its guards alone', async () => {
  const name = unique()
  let guard = openManager({ name }).allocateLock().lockSync()
  ;(globalThis as { gc?: () => void }).gc?.()
  assert.equal(openManager({ name }).locksHeld(), [0])
  guard.unlock()
  guard = await openManager({ name }).retrieveLock(0).lock()
  guard.unlock()
})

test('a segment grows while others lock', async () => {
  const name = unique()
  const manager = openManager({ name, capacity: 2 })
  const peer = new ProcessPeer()
  await open(peer, { name })
  manager.allocateLock()
  manager.allocateLock()
  const refusal = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.equal([refusal.capacity, refusal.held], [2, 0])
  assert.match(refusal.message, /\b2\b/)
  const locking = peer.run(async ({ locker }) => {
    for (let i = 0; i < 2_000; i++) locker(1).lockSync().unlock()
  })
  await peer.run(({ lib, manager }) => void lib.openManager({ path: manager.path, capacity: 600 }))
  assert.is(manager.capacity, 600)
  assert.is(openManager({ name, capacity: 10 }).capacity, 600)
  assert.equal(Array.from({ length: 598 }, () => manager.allocateLock().id), Array.from({ length: 598 }, (_, i) => i + 2))
  await locking
})

test('capacity costs nothing by itself, and an id of a far chunk 64 KiB', () => {
  const [small, large] = [openManager({ name: unique() }), openManager({ name: unique(), capacity: 2 ** 20 })]
  const bytes = (manager: lib.Manager): number => statSync(manager.path).blocks * 512
  assert.is(bytes(small), bytes(large))
  const before = bytes(large)
  large.allocateAndRetrieveLock(2 ** 20 - 1).lockSync().unlock()
  assert.is(bytes(large) - before, 65_536)
})

test('inUse marks ids when the segment is created, and only then', () => {
  const name = unique()
  throws(() => openManager({ name, capacity: 4, inUse: [4] }), 'ERR_OUT_OF_RANGE')
  throws(() => openManager({ name, mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  const manager = openManager({ name, capacity: 4, inUse: new Set([0, 2]) })
  assert.ok(manager.created)
  assert.is(manager.availableLocks(), 2)
  assert.equal([manager.allocateLock().id, manager.allocateLock().id], [1, 3])
  throws(() => manager.allocateAndRetrieveLock(2), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
  manager.retrieveLock(2).free()
  assert.is(openManager({ name, inUse: [2] }).created, false)
  assert.is(manager.allocateLock().id, 2)
})

test('tokens grow across a re-creation of the segment', () => {
  process.once('warning', () => {})
  const name = unique()
  const first = openManager({ name })
  const token = first.allocateLock().withLockSync((guard) => guard.token)
  unlinkSync(first.path)
  const second = openManager({ name })
  assert.ok(second.created)
  assert.ok(second.allocateLock().withLockSync((guard) => guard.token) > token)
})

test('a segment that is deleted under us: a warning, once, and it goes on', async () => {
  const manager = openManager({ name: unique() })
  const locker = manager.allocateLock()
  const { promise, resolve } = deferred<Error>()
  const seen: Error[] = []
  const listen = (warning: Error): void => {
    if (!warning.message.includes(manager.path)) return
    seen.push(warning)
    resolve(warning)
  }
  process.on('warning', listen)
  unlinkSync(manager.path)
  locker.lockSync().unlock()
  manager.allocateLock()
  manager.allocateLock().free()
  const warning = await promise
  assert.is((warning as { code?: string }).code, 'ERR_ROBUST_LOCK_STALE_SEGMENT')
  manager.allocateLock()
  await new Promise((done) => setImmediate(done))
  assert.is(seen.length, 1)
  process.off('warning', listen)
})

test('the native module keeps no download address and no script in the package', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, Record<string, string>>
  assert.is(manifest['dependencies'], undefined)
  for (const hook of ['preinstall', 'install', 'postinstall', 'prepare']) assert.is(manifest['scripts']?.[hook], undefined)
  assert.not.match(readFileSync(join(root, 'package-lock.json'), 'utf8'), /"resolved"/)
})

test.run()
