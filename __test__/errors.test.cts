// Errors that a program makes by itself: arguments, ids, holders, and a missing native module.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { LockError, openManager, supported, type Locker, type LockOptions, type Manager, type OpenOptions } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('errors')
const TYPE = 'ERR_INVALID_ARG_TYPE'
const RANGE = 'ERR_OUT_OF_RANGE'

function segment(capacity = 2048): { manager: Manager; locker: Locker; options: OpenOptions } {
  const options = { name: unique(), capacity }
  const manager = openManager(options)
  return { manager, locker: manager.allocateLock(), options }
}

/** What a program in plain JavaScript may pass. */
function wrong<T>(value: unknown): T {
  return value as T
}

const notIntegers: [unknown, string][] = [
  [undefined, TYPE],
  [null, TYPE],
  ['1', TYPE],
  [1n, TYPE],
  [{}, TYPE],
  [-1, RANGE],
  [1.5, RANGE],
  [NaN, RANGE],
  [Infinity, RANGE],
  [2 ** 32, RANGE],
]

test('openManager: arguments', () => {
  const name = unique()
  const cases: [unknown, string][] = [
    [undefined, TYPE],
    [null, TYPE],
    ['name', TYPE],
    [5, TYPE],
    [{}, TYPE],
    [{ name, path: join(folder, name) }, TYPE],
    [{ name: 5 }, TYPE],
    [{ name: null }, TYPE],
    [{ path: 5 }, TYPE],
    [{ path: '' }, RANGE],
    [{ path: '/dev/shm/a\0b' }, RANGE],
    [{ name, mode: 5 }, TYPE],
    [{ name, mode: 'create-or-open' }, RANGE],
    [{ name, capacity: 0 }, RANGE],
    [{ name, capacity: 2 ** 20 + 1 }, RANGE],
    [{ name, inUse: 5 }, TYPE],
    [{ name, inUse: null }, TYPE],
    [{ name, inUse: '123' }, TYPE],
    [{ name, inUse: {} }, TYPE],
    [{ name, inUse: ['1'] }, TYPE],
    [{ name, inUse: [1.5] }, RANGE],
    [{ name, inUse: [-1] }, RANGE],
    [{ name, inUse: [2 ** 20] }, RANGE],
    [{ name, inUse: [2048] }, RANGE],
    [{ name, capacity: 10, inUse: new Set([9, 10]) }, RANGE],
    ...notIntegers.slice(1).map(([capacity, code]): [unknown, string] => [{ name, capacity }, code]),
  ]
  for (const [options, code] of cases) throws(() => openManager(wrong(options)), code)
  for (const bad of ['', '.', '..', 'a/b', '/', 'a b', 'ä', 'a\0', 'a\n', 'x'.repeat(201)]) {
    throws(() => openManager({ name: bad }), RANGE)
  }
  assert.is(existsSync(join(folder, name)), false, 'nothing was created')
})

test('openManager: the limits of what is allowed', () => {
  throws(() => openManager({ path: join(folder, 'x'.repeat(256)) }), RANGE)
  throws(() => openManager({ path: `/dev/shm/${'x/'.repeat(2_048)}x` }), RANGE)
  assert.is(openManager({ name: unique(), capacity: 1 }).capacity, 1)
  assert.is(openManager({ name: unique(), capacity: 2 ** 20 }).capacity, 2 ** 20)
  const undefinedIsLeftOut = { name: unique(), path: undefined, capacity: undefined, mode: undefined, inUse: undefined }
  assert.is(openManager(undefinedIsLeftOut).capacity, 2048)
})

test('openManager: names that are allowed', () => {
  for (const name of ['x'.repeat(200), '...', '-', 'A.b_c-9']) assert.is(openManager({ name }).path, join(folder, name))
})

test('ids', () => {
  const { manager } = segment(100)
  for (const [id, code] of [...notIntegers, [100, RANGE]] as [unknown, string][]) {
    throws(() => manager.retrieveLock(wrong(id)), code)
    throws(() => manager.allocateAndRetrieveLock(wrong(id)), code)
  }
  assert.is(manager.availableLocks(), 99)
  assert.is(manager.retrieveLock(99).id, 99)
})

test('options of a wait, and the function of a section', async () => {
  const { manager, locker } = segment()
  const cases: [unknown, string][] = [
    [null, TYPE],
    [5, TYPE],
    ['timeout', TYPE],
    [{ timeout: '1' }, TYPE],
    [{ timeout: null }, TYPE],
    [{ timeout: 1n }, TYPE],
    [{ timeout: NaN }, RANGE],
    [{ timeout: -1 }, RANGE],
    [{ timeout: -Infinity }, RANGE],
  ]
  const signals: [unknown, string][] = [null, 5, 'signal', {}, new AbortController(), { aborted: false }, { aborted: false, addEventListener() {} }].map((signal) => [{ signal }, TYPE])
  for (const [options, code] of [...cases, ...signals]) {
    await rejects(locker.lock(wrong(options)), code)
    await rejects(locker.withLock(() => assert.unreachable(), wrong<LockOptions>(options)), code)
  }
  for (const [options, code] of cases) {
    throws(() => locker.lockSync(wrong(options)), code)
    throws(() => locker.withLockSync(() => assert.unreachable(), wrong(options)), code)
  }
  for (const fn of [undefined, null, 5, 'fn', {}]) {
    await rejects(locker.withLock(wrong(fn)), TYPE)
    throws(() => locker.withLockSync(wrong(fn)), TYPE)
  }
  assert.equal(manager.locksHeld(), [])
  ;(await locker.lock({ timeout: undefined, signal: undefined })).unlock()
})

test('a LockError is an Error with a code, and with what belongs to it', () => {
  const { manager } = segment(1)
  const error = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.ok(error instanceof LockError)
  assert.is(error.name, 'LockError')
  assert.ok(error.stack?.startsWith('LockError: '))
  assert.equal({ ...error }, { code: 'ERR_ROBUST_LOCK_EXHAUSTED', capacity: 1, held: 0 })
  const missing = throws(() => openManager({ name: unique(), mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  assert.equal({ ...missing }, { code: 'ERR_ROBUST_LOCK_NOT_FOUND', errno: 2, syscall: 'open' })
})

test('EXHAUSTED tells the capacity, and how many ids are free but held', () => {
  const { manager } = segment(3)
  const lockers = [manager.retrieveLock(0), manager.allocateLock(), manager.allocateLock()]
  const full = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.equal([full.capacity, full.held], [3, 0])
  assert.match(full.message, /\b3\b/)
  for (const locker of lockers.slice(0, 2)) {
    locker.lockSync()
    locker.free()
  }
  const held = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.equal([held.capacity, held.held], [3, 2])
  assert.match(held.message, /held/)
  assert.is(manager.availableLocks(), 2)
  lockers[1]?.unlock()
  assert.is(manager.allocateLock().id, 1)
  lockers[0]?.unlock()
})

test('ALREADY_ALLOCATED, NOT_ALLOCATED and STALE_HANDLE', () => {
  const { manager, locker } = segment()
  throws(() => manager.allocateAndRetrieveLock(locker.id), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
  const retrieved = manager.retrieveLock(locker.id)
  locker.free()
  throws(() => locker.free(), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
  const none = manager.retrieveLock(locker.id)
  throws(() => none.free(), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
  const tenant = manager.allocateLock()
  assert.is(tenant.id, locker.id)
  throws(() => locker.free(), 'ERR_ROBUST_LOCK_STALE_HANDLE')
  throws(() => retrieved.free(), 'ERR_ROBUST_LOCK_STALE_HANDLE')
  // An old handle locks nevertheless.
  locker.lockSync()
  assert.is(tenant.tryLock(), undefined)
  locker.unlock()
  // A handle that was made while the id was free frees what is there.
  none.free()
  throws(() => tenant.free(), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
})

test('NOT_HELD and NOT_OWNER change nothing', async () => {
  const { manager, locker, options } = segment()
  const other = manager.retrieveLock(locker.id)
  const peer = new ProcessPeer()
  await open(peer, options)
  throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  const guard = await locker.lock()
  throws(() => other.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  await rejects(peer.run(({ locker }, id) => locker(id).unlock(), locker.id), 'ERR_ROBUST_LOCK_NOT_OWNER')
  assert.equal(manager.locksHeld(), [locker.id])
  locker.unlock()
  throws(() => guard.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  guard[Symbol.dispose]()
  await guard[Symbol.asyncDispose]()
  const next = other.lockSync()
  // An old guard has nothing to say about a later holder's lock.
  throws(() => guard.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  guard[Symbol.dispose]()
  throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  assert.equal(manager.locksHeld(), [locker.id])
  next.unlock()
  await take(peer, locker.id)
  throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  await release(peer, locker.id)
})

test('TOO_MANY_HELD: the 961st lock of a thread', async () => {
  const { manager, locker: contended, options } = segment()
  const lockers = Array.from({ length: 961 }, () => manager.allocateLock())
  const last = lockers[960] as Locker
  const peer = new ProcessPeer()
  await open(peer, options)
  await take(peer, contended.id)
  const guards = lockers.slice(0, 959).map((locker) => locker.lockSync())
  const waiting = contended.lock()
  await until('it waits', () => isWaitedFor(manager.path, contended.id))
  guards.push((lockers[959] as Locker).lockSync())
  throws(() => last.lockSync(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  throws(() => last.tryLock(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  await rejects(last.lock(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  await rejects(last.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  const refused = rejects(waiting, 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  await release(peer, contended.id)
  await refused
  await until('its gate is open', () => !isWaitedFor(manager.path, contended.id))
  // To hand one on inside the thread is not one more.
  const heir = (lockers[0] as Locker).lock()
  guards[0]?.unlock()
  guards[0] = await heir
  // It is the thread's number: another has its own.
  await take(peer, last.id)
  await release(peer, last.id)
  for (const guard of guards) guard.unlock()
  last.lockSync().unlock()
  contended.lockSync().unlock()
  assert.equal(manager.locksHeld(), [])
})

/** What a new process prints that runs this. */
function output(source: string, env: Record<string, string> = {}): unknown {
  const ran = spawnSync(process.execPath, ['-e', source], { cwd: join(__dirname, '..', '..'), encoding: 'utf8', env: { ...process.env, ...env } })
  assert.is(ran.status, 0, ran.stderr)
  return JSON.parse(ran.stdout)
}

const tryToOpen = `
  const lib = require('robust-lock')
  let error = {}
  try { lib.openManager({ name: '${unique()}' }) } catch (thrown) { error = thrown }
  const { code, message } = error
  console.log(JSON.stringify({ supported: lib.supported, code, message, isOurs: error instanceof lib.LockError }))`

test('NO_PREBUILT: importing does not throw, opening does', () => {
  assert.is(supported, true)
  const missing = '/nowhere/robust-lock.node'
  const result = output(tryToOpen, { ROBUST_LOCK_NATIVE_PATH: missing }) as { message: string }
  assert.match(result.message, missing)
  assert.match(result.message, 'npm install')
  assert.equal({ ...result, message: '' }, { supported: false, code: 'ERR_ROBUST_LOCK_NO_PREBUILT', message: '', isOurs: true })
})

test('UNSUPPORTED_PLATFORM: importing does not throw, opening does', () => {
  for (const [property, value] of [['platform', 'darwin'], ['platform', 'win32'], ['arch', 'mips']]) {
    const elsewhere = `Object.defineProperty(process, '${property}', { value: '${value}' });`
    const result = output(elsewhere + tryToOpen) as { message: string }
    assert.match(result.message, value as string)
    assert.equal({ ...result, message: '' }, { supported: false, code: 'ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM', message: '', isOurs: true })
  }
})

test.run()
