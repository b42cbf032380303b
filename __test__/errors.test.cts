// Every code, provoked for real. What needs a machine of its own is said at the end.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, linkSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { tmpdir } from 'node:os'
import * as assert from 'uvu/assert'
import { LockError, openManager, type OpenOptions } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, take } from './fixtures/jobs.cjs'
import { ProcessPeer, type ProcessOptions } from './fixtures/peers.cjs'
import { ADMIN_AT, CAPACITY_AT, WORD_OFFSET_AT, patch } from './fixtures/segment.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'

const test = suite('errors')
const isRoot = process.geteuid?.() === 0

/** unshare with these namespaces, or undefined if that is not allowed here. */
function unshare(what: string, ...flags: string[]): string[] | undefined {
  const command = ['unshare', ...(isRoot ? [] : ['--user', '--map-root-user']), ...flags]
  const { status, stderr, error } = spawnSync(command[0] as string, [...command.slice(1), 'true'], { encoding: 'utf8' })
  if (status === 0) return command
  notRun(what, error?.message ?? stderr.trim())
  return undefined
}

/** What a process that is started so says when it opens the segment: the code, or that it created it. */
async function opened(options: OpenOptions, how: ProcessOptions): Promise<string> {
  const peer = new ProcessPeer(how)
  const said = await peer.run(({ lib }, options) => {
    try {
      const { created } = lib.openManager(options)
      return created ? 'created' : 'opened'
    } catch (error) {
      return (error as { code: string }).code
    }
  }, options)
  await peer.kill()
  return said
}

/** A segment that this process has never opened. */
async function foreign(): Promise<string> {
  const path = join(folder, unique())
  assert.is(await opened({ path }, {}), 'created')
  return path
}

test('arguments', () => {
  const name = unique()
  for (const options of [undefined, null, 5, 'x', {}, { name, path: '/dev/shm/x' }, { name: 5 }, { path: 5 }, { name, capacity: '8' }, { name, mode: 1 }, { name, inUse: 5 }, { name, inUse: ['1'] }, { name, inUse: '12' }]) {
    throws(() => openManager(options as never), 'ERR_INVALID_ARG_TYPE')
  }
  for (const options of [{ name: '' }, { name: '.' }, { name: '..' }, { name: 'a/b' }, { name: 'a b' }, { name: 'é' }, { name: 'x'.repeat(201) }, { path: '' }, { path: '/dev/shm/a\0b' }, { name, capacity: 0 }, { name, capacity: 1.5 }, { name, capacity: 2 ** 20 + 1 }, { name, capacity: NaN }, { name, mode: 'x' }, { name, inUse: [-1] }, { name, inUse: [2 ** 20] }, { name, inUse: [2048] }]) {
    throws(() => openManager(options as never), 'ERR_OUT_OF_RANGE')
  }
  assert.not(existsSync(join(folder, name)), 'nothing was created')
  const manager = openManager({ name: 'x'.repeat(200) })
  for (const id of [undefined, null, '0', {}]) {
    throws(() => manager.retrieveLock(id as never), 'ERR_INVALID_ARG_TYPE')
    throws(() => manager.allocateAndRetrieveLock(id as never), 'ERR_INVALID_ARG_TYPE')
  }
  for (const id of [-1, 0.5, NaN, Infinity, 2048, 2 ** 32]) {
    throws(() => manager.retrieveLock(id), 'ERR_OUT_OF_RANGE')
    throws(() => manager.allocateAndRetrieveLock(id), 'ERR_OUT_OF_RANGE')
  }
})

test('ids: EXHAUSTED, ALREADY_ALLOCATED, NOT_ALLOCATED, STALE_HANDLE', () => {
  const manager = openManager({ name: unique(), capacity: 2 })
  const [first, second] = [manager.allocateLock(), manager.allocateLock()]
  const full = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.equal([full.capacity, full.held], [2, 0])
  throws(() => manager.allocateAndRetrieveLock(1), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
  const guard = second.lockSync()
  second.free()
  const held = throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
  assert.equal([held.capacity, held.held], [2, 1])
  throws(() => second.free(), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
  const without = manager.retrieveLock(1)
  guard.unlock()
  assert.is(manager.allocateLock().id, 1)
  throws(() => second.free(), 'ERR_ROBUST_LOCK_STALE_HANDLE')
  without.free()
  first.free()
  assert.is(manager.availableLocks(), 2)
})

test('holding: NOT_HELD, NOT_OWNER, WOULD_DEADLOCK, TOO_MANY_HELD', async () => {
  const name = unique()
  const manager = openManager({ name })
  const locker = manager.allocateLock()
  throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  const guard = locker.lockSync()
  throws(() => manager.retrieveLock(locker.id).unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  throws(() => manager.retrieveLock(locker.id).lockSync({ timeout: 1 }), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
  guard.unlock()
  for (const again of [() => guard.unlock(), () => guard.markConsistent(), () => locker.unlock()]) throws(again, 'ERR_ROBUST_LOCK_NOT_HELD')
  guard[Symbol.dispose]()
  const peer = new ProcessPeer()
  await open(peer, { name })
  await take(peer, locker.id)
  throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
  const guards = Array.from({ length: 960 }, (_, i) => manager.retrieveLock(i + 1).lockSync())
  const next = manager.retrieveLock(961)
  throws(() => next.lockSync(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  throws(() => next.tryLock(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  await rejects(next.lock(), 'ERR_ROBUST_LOCK_TOO_MANY_HELD')
  guards.pop()?.unlock()
  next.lockSync().unlock()
  for (const one of guards) one.unlock()
})

test('modes: NOT_FOUND, EXISTS', () => {
  const name = unique()
  throws(() => openManager({ name, mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  openManager({ name, mode: 'create' })
  throws(() => openManager({ name, mode: 'create' }), 'ERR_ROBUST_LOCK_EXISTS')
  const missing = throws(() => openManager({ path: join(folder, 'no', 'folder') }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  assert.is(missing.syscall, 'open')
  assert.ok(missing.errno)
})

test('NO_SPACE: a full tmpfs, at creation and at a later chunk, and a limit on file sizes', async () => {
  const wrapper = unshare('a full tmpfs', '--mount')
  const place = join(folder, unique())
  mkdirSync(place)
  const mounted = (size: string): string[] => [...(wrapper ?? []), 'sh', '-c', `mount -t tmpfs -o mode=700,size=${size} tmpfs ${place} && exec "$@"`, 'sh']
  if (wrapper !== undefined) {
    assert.is(await opened({ path: join(place, 'a') }, { wrapper: mounted('64k') }), 'ERR_ROBUST_LOCK_NO_SPACE')
    const peer = new ProcessPeer({ wrapper: mounted('320k') })
    const [code, files, rest] = await peer.run(({ lib, fs }, place) => {
      const manager = lib.openManager({ path: `${place}/a` })
      manager.retrieveLock(0).lockSync().unlock()
      manager.retrieveLock(256)
      let code = ''
      try {
        for (let id = 512; id < 2048; id += 256) manager.retrieveLock(id)
      } catch (error) {
        code = (error as { code: string }).code
      }
      return [code, fs.readdirSync(place), manager.retrieveLock(300).withLockSync(() => 'works')]
    }, place)
    assert.equal([code, files, rest], ['ERR_ROBUST_LOCK_NO_SPACE', ['a'], 'works'])
  }
  const limit = ['bash', '-c', 'ulimit -f 1000 && exec "$@"', 'bash']
  const path = join(folder, unique())
  assert.is(await opened({ path }, { wrapper: limit }), 'ERR_ROBUST_LOCK_NO_SPACE')
  assert.not(existsSync(path))
})

test('NO_MEMORY: no address space left', async () => {
  const peer = new ProcessPeer()
  const path = join(folder, unique())
  const code = await peer.run(({ require, fs, lib }, path) => {
    const used = Number(/VmSize:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024
    const { spawnSync } = require('node:child_process') as typeof import('node:child_process')
    const { status } = spawnSync('prlimit', ['--pid', String(process.pid), `--as=${used + 2 ** 27}`])
    if (status !== 0) return 'no prlimit'
    try {
      return lib.openManager({ path }).path
    } catch (error) {
      return (error as { code: string }).code
    }
  }, path)
  if (code === 'no prlimit') notRun('NO_MEMORY', 'prlimit is missing')
  else assert.is(code, 'ERR_ROBUST_LOCK_NO_MEMORY')
  assert.not(existsSync(path), 'nothing is left')
})

test('PERMISSION: modes, links, folders', async () => {
  const path = await foreign()
  chmodSync(path, 0o640)
  const refusal = throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_PERMISSION')
  assert.match(refusal.message, /0640/)
  chmodSync(path, 0o600)
  const [hard, soft] = [join(folder, unique()), join(folder, unique())]
  linkSync(path, hard)
  throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_PERMISSION')
  rmSync(hard)
  symlinkSync(path, soft)
  throws(() => openManager({ path: soft }), 'ERR_ROBUST_LOCK_PERMISSION')
  assert.is(openManager({ path }).created, false)

  const squatted = join(folder, unique())
  mkdirSync(squatted, { mode: 0o755 })
  const before = process.env['ROBUST_LOCK_DIR'] as string
  process.env['ROBUST_LOCK_DIR'] = squatted
  try {
    assert.match(throws(() => openManager({ name: 'x' }), 'ERR_ROBUST_LOCK_PERMISSION').message, /ROBUST_LOCK_DIR/)
  } finally {
    process.env['ROBUST_LOCK_DIR'] = before
  }
})

test('CORRUPT and INCOMPATIBLE: what lies in the file', async () => {
  const noise = join(folder, unique())
  writeFileSync(noise, Buffer.alloc(10_000, 'noise'), { mode: 0o600 })
  throws(() => openManager({ path: noise }), 'ERR_ROBUST_LOCK_CORRUPT')
  throws(() => openManager({ path: folder }), 'ERR_ROBUST_LOCK_CORRUPT')
  for (const [at, value, code, said] of [
    [0, 0, 'CORRUPT', /segment/],
    [CAPACITY_AT, 0, 'CORRUPT', /capacity/],
    [8, 0x0d0c0b0a, 'INCOMPATIBLE', /byte order/],
    [12, 99, 'INCOMPATIBLE', /layout version/],
    [24, 16, 'INCOMPATIBLE', /pointer width/],
    [WORD_OFFSET_AT, 20, 'INCOMPATIBLE', /lock word/],
    [64, 0xffff, 'INCOMPATIBLE', /mutex image/],
  ] as const) {
    const path = await foreign()
    patch(path, at, new Uint32Array([value]))
    assert.match(throws(() => openManager({ path }), `ERR_ROBUST_LOCK_${code}`).message, said)
  }
})

test('NOT_TMPFS: a folder on a disk', () => {
  const path = join(tmpdir(), `robust-lock-${unique()}`)
  const type = spawnSync('stat', ['-f', '-c', '%T', tmpdir()], { encoding: 'utf8' }).stdout.trim()
  if (type === 'tmpfs') return notRun('NOT_TMPFS', `${tmpdir()} is a tmpfs`)
  throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_NOT_TMPFS')
  assert.not(existsSync(path))
})

test('PID_NAMESPACE and NO_PROC; a segment that a container left is adopted', async () => {
  const wrapper = unshare('another PID namespace', '--pid', '--fork', '--mount-proc', '--kill-child')
  if (wrapper !== undefined) {
    const name = unique()
    const container = new ProcessPeer({ wrapper })
    await open(container, { name })
    await container.run(({ manager }) => [manager.allocateLock().id, manager.allocateLock().id])
    await take(container, 1)
    throws(() => openManager({ name }), 'ERR_ROBUST_LOCK_PID_NAMESPACE')
    await container.kill()
    const manager = openManager({ name })
    assert.is(manager.created, false)
    assert.is(manager.availableLocks(), 2046)
    assert.equal(manager.locksHeld(), [])
    const guard = manager.retrieveLock(1).lockSync()
    assert.is(guard.ownerDied, true, 'it was inside when it ended')
    guard.markConsistent()
    guard.unlock()
    assert.is(await opened({ name }, { wrapper }), 'ERR_ROBUST_LOCK_PID_NAMESPACE')
  }
  const mount = unshare('no /proc', '--mount')
  if (mount === undefined) return
  const peer = new ProcessPeer({ wrapper: mount })
  const code = await peer.run(({ require, lib }, name) => {
    const { spawnSync } = require('node:child_process') as typeof import('node:child_process')
    // The native module must be there before /proc is gone: the loader looks at it.
    lib.openManager({ name: `${name}-before` })
    if (spawnSync('mount', ['-t', 'tmpfs', 'tmpfs', '/proc']).status !== 0) return 'not allowed'
    try {
      return lib.openManager({ name }).path
    } catch (error) {
      return (error as { code: string }).code
    }
  }, unique())
  if (code === 'not allowed') notRun('NO_PROC', 'mounting over /proc is not allowed')
  else assert.is(code, 'ERR_ROBUST_LOCK_NO_PROC')
})

test('STALLED: somebody who does not get on with a chunk', async () => {
  const name = unique()
  const manager = openManager({ name })
  manager.allocateLock()
  const peer = new ProcessPeer()
  await open(peer, { name })
  const word = ADMIN_AT + new Uint32Array(readFileSync(manager.path).buffer, WORD_OFFSET_AT, 1)[0]!
  patch(manager.path, word, new Uint32Array([peer.pid]))
  assert.match(throws(() => manager.retrieveLock(1000), 'ERR_ROBUST_LOCK_STALLED').message, new RegExp(`\\b${peer.pid}\\b`))
  manager.retrieveLock(0).lockSync().unlock()
  await peer.kill()
  assert.is(manager.retrieveLock(1000).id, 1000, 'its end is noticed')
})

test('UNSUPPORTED_PLATFORM and NO_PREBUILT: importing never throws', () => {
  const run = (before: string, env: Record<string, string> = {}): string[] => {
    const program = `${before}; const lib = require('robust-lock'); try { lib.openManager({ name: 'x' }) } catch (error) { console.log(lib.supported, error.code, error instanceof lib.LockError, error.message) }`
    return spawnSync(process.execPath, ['-e', program], { encoding: 'utf8', cwd: join(__dirname, '..', '..'), env: { ...process.env, ...env } }).stdout.split(' ')
  }
  const darwin = run("Object.defineProperty(process, 'platform', { value: 'darwin' })")
  assert.equal(darwin.slice(0, 3), ['false', 'ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM', 'true'])
  const sparc = run("Object.defineProperty(process, 'arch', { value: 'sparc' })")
  assert.equal(sparc.slice(0, 2), ['false', 'ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM'])
  const missing = run('', { ROBUST_LOCK_NATIVE_PATH: '/nowhere/robust-lock.node' })
  assert.equal(missing.slice(0, 3), ['false', 'ERR_ROBUST_LOCK_NO_PREBUILT', 'true'])
  assert.match(missing.join(' '), /npm install/)
})

test('what a LockError is', () => {
  const error = throws(() => openManager({ name: unique(), mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  assert.ok(error instanceof LockError && error instanceof Error)
  assert.is(error.name, 'LockError')
  assert.match(String(error.stack), /^LockError: /)
})

notRun('FORKED', 'Node never forks without an exec; the Rust tests do')
notRun('NOT_ROBUST', 'it takes an emulator in which the kernel does not mark the mutexes of the dead')
test.run()
