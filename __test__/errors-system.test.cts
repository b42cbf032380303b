// What the system refuses: room, memory, /proc; and what another PID namespace may not do.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { afterScript, allows, otherPids, unshare } from './fixtures/namespace.cjs'
import { ProcessPeer, type Peer } from './fixtures/peers.cjs'
import { segment } from './fixtures/place.cjs'
import { adminWordAt, CHUNK_LOCKS, HEADER, isWaitedFor, patch, STAMP_BYTES } from './fixtures/segment.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('errors, system')

/** A peer with a small tmpfs of its own at the path. */
function onTmpfs(path: string, size: string): { wrapper: string[] } {
  mkdirSync(path)
  return { wrapper: afterScript(`mount -t tmpfs -o size=${size},mode=0700 none '${path}'`) }
}

const free = (peer: Peer, path: string): Promise<number> => peer.run(({ fs }, path) => fs.statfsSync(path).bfree, path)

test('NO_SPACE at creation, on a tmpfs of 64 KiB, leaves nothing behind', async () => {
  const small = join(folder, unique())
  const options = onTmpfs(small, '64k')
  if (!allows(options.wrapper, 'NO_SPACE at creation')) return
  const peer = new ProcessPeer(options)
  const before = await free(peer, small)
  for (let i = 0; i < 3; i++) {
    const error = await rejects(open(peer, { path: join(small, 'segment') }), 'ERR_ROBUST_LOCK_NO_SPACE')
    assert.equal([error.errno, error.syscall], [28, 'fallocate'])
  }
  assert.equal(await peer.run(({ fs }, small) => fs.readdirSync(small), small), [])
  assert.is(await free(peer, small), before)
  await peer.run(({ require }, small) => {
    require('node:child_process').execFileSync('mount', ['-o', 'remount,size=1m', 'none', small])
  }, small)
  await open(peer, { path: join(small, 'segment'), mode: 'create' })
  await take(peer, 0)
})

test('NO_SPACE for a later chunk leaves everything as it is', async () => {
  const small = join(folder, unique())
  // 140 KiB at creation, 64 KiB for the first chunk, and the second one has no room.
  const options = onTmpfs(small, '256k')
  if (!allows(options.wrapper, 'NO_SPACE for a later chunk')) return
  const peer = new ProcessPeer(options)
  await open(peer, { path: join(small, 'segment') })
  const far = CHUNK_LOCKS + 1
  await peer.run(({ manager }) => void manager.allocateLock())
  const before = await free(peer, small)
  for (let i = 0; i < 2; i++) {
    for (const call of ['retrieveLock', 'allocateAndRetrieveLock'] as const) {
      const refused = peer.run(({ manager }, { call, far }) => void manager[call](far), { call, far })
      assert.is((await rejects(refused, 'ERR_ROBUST_LOCK_NO_SPACE')).errno, 28)
    }
  }
  assert.is(await free(peer, small), before)
  await peer.run(({ manager }, ids) => {
    for (let id = 1; id < ids; id++) manager.allocateLock()
  }, CHUNK_LOCKS)
  await rejects(peer.run(({ manager }) => void manager.allocateLock()), 'ERR_ROBUST_LOCK_NO_SPACE')
  assert.is(await peer.run(({ manager }) => manager.availableLocks()), 2048 - CHUNK_LOCKS)
  await take(peer, CHUNK_LOCKS - 1)
  await peer.run(({ require }, small) => {
    require('node:child_process').execFileSync('mount', ['-o', 'remount,size=1m', 'none', small])
  }, small)
  assert.is(await peer.run(({ manager }) => manager.allocateLock().id), CHUNK_LOCKS)
  assert.is((await take(peer, CHUNK_LOCKS)).ownerDied, false)
})

test('NO_SPACE: a limit on file sizes kills nobody', async () => {
  const name = unique()
  const wrapper = ['sh', '-c', 'ulimit -f 1000 && exec "$0" "$@"']
  const peer = new ProcessPeer({ wrapper })
  const { message } = await rejects(open(peer, { name }), 'ERR_ROBUST_LOCK_NO_SPACE')
  assert.match(message, 'ulimit -f')
  assert.is(readdirSync(folder).includes(name), false)
  // A segment that is there already can be used, and grows.
  const manager = openManager({ name })
  await open(peer, { name })
  assert.is(await peer.run(({ manager }) => manager.allocateAndRetrieveLock(2000).id), 2000)
  await take(peer, 2000)
  assert.is(manager.retrieveLock(2000).tryLock(), undefined)
})

const status = (pid: number, field: string): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])

/** Sets a soft limit of a running process; to its hard limit if no value is given. */
function limit(peer: ProcessPeer, what: 'as' | 'nproc' | 'nofile', value: number | ''): void {
  const hard = spawnSync('prlimit', ['--pid', String(peer.pid), `--${what}`, '--output=HARD', '--noheadings'], { encoding: 'utf8' })
  const ran = spawnSync('prlimit', ['--pid', String(peer.pid), `--${what}=${value || hard.stdout.trim()}:`], { encoding: 'utf8' })
  assert.is(ran.status, 0, ran.stderr)
}

test('NO_MEMORY: no addresses left to map a segment', async () => {
  if (!allows(['prlimit'], 'NO_MEMORY')) return
  const peer = new ProcessPeer()
  await open(peer, { name: unique() })
  const name = unique()
  limit(peer, 'as', status(peer.pid, 'VmSize') * 1024 + (100 << 20))
  const error = await rejects(open(peer, { name }), 'ERR_ROBUST_LOCK_NO_MEMORY')
  assert.equal([error.errno, error.syscall], [12, 'mmap'])
  assert.is(readdirSync(folder).includes(name), false)
  limit(peer, 'as', '')
  await open(peer, { name, mode: 'create' })
})

test('NO_MEMORY: no file descriptors left', async () => {
  if (!allows(['prlimit'], 'NO_MEMORY, of descriptors')) return
  const peer = new ProcessPeer()
  await open(peer, { name: unique() })
  limit(peer, 'nofile', readdirSync(`/proc/${peer.pid}/fd`).length)
  const name = unique()
  const refused = peer.run(({ lib, fs }, name) => {
    // Whatever is left below the limit: numbers that were closed, for one.
    const fds: number[] = []
    try {
      for (;;) fds.push(fs.openSync('/dev/null', 'r'))
    } catch {
      // None is left.
    }
    try {
      lib.openManager({ name })
    } finally {
      for (const fd of fds) fs.closeSync(fd)
    }
  }, name)
  assert.is((await rejects(refused, 'ERR_ROBUST_LOCK_NO_MEMORY')).errno, 24)
  limit(peer, 'nofile', '')
  await open(peer, { name, mode: 'create' })
})

test('NO_MEMORY: no thread for the probe of a first open', async () => {
  if (process.getuid?.() === 0) return notRun('NO_MEMORY for want of a first thread', 'root may have any number of threads')
  if (!allows(['prlimit'], 'NO_MEMORY for want of a first thread')) return
  const peer = new ProcessPeer()
  await peer.run(() => 1)
  limit(peer, 'nproc', 1)
  await rejects(open(peer, { name: unique() }), 'ERR_ROBUST_LOCK_NO_MEMORY')
  // Nothing of it is remembered.
  limit(peer, 'nproc', '')
  await open(peer, { name: unique() })
})

test('NO_PROC: a /proc of another PID namespace', async () => {
  const wrapper = unshare('--pid', '--fork', '--kill-child')
  if (!allows(wrapper, 'NO_PROC, a foreign one')) return
  const name = unique()
  const peer = new ProcessPeer({ wrapper })
  const { message } = await rejects(open(peer, { name }), 'ERR_ROBUST_LOCK_NO_PROC')
  assert.match(message, '/proc')
  assert.is(readdirSync(folder).includes(name), false)
})

test('NO_PROC: no /proc at all', async () => {
  const wrapper = afterScript('mount -t tmpfs none /proc')
  if (!allows(wrapper, 'NO_PROC, none')) return
  const peer = new ProcessPeer({ wrapper })
  const error = await rejects(open(peer, { name: unique() }), 'ERR_ROBUST_LOCK_NO_PROC')
  assert.is(error.errno, 2)
})

test('PID_NAMESPACE: a segment that another namespace has open', async () => {
  if (!allows(otherPids, 'PID_NAMESPACE')) return
  const options = { name: unique() }
  const manager = openManager(options)
  const locker = manager.allocateLock()
  const guard = locker.lockSync()
  const peer = new ProcessPeer({ wrapper: otherPids })
  const { message } = await rejects(open(peer, options), 'ERR_ROBUST_LOCK_PID_NAMESPACE')
  assert.match(message, manager.path)
  guard.unlock()
  // Nothing was adopted: this process goes on.
  assert.is(locker.lockSync().ownerDied, false)
  locker.unlock()
  // And the other way round.
  const theirs = { name: unique() }
  await open(peer, theirs)
  throws(() => openManager(theirs), 'ERR_ROBUST_LOCK_PID_NAMESPACE')
})

test('a segment that another PID namespace has left is adopted with all that is in it', async () => {
  if (!allows(otherPids, 'adoption')) return
  const options = { name: unique(), capacity: 1000 }
  const far = 2 * CHUNK_LOCKS
  let [used, last] = [0, 0]
  // There, here, and there again.
  for (const wrapper of [otherPids, [], otherPids]) {
    const peer = new ProcessPeer({ wrapper })
    await open(peer, options)
    assert.is(await peer.run(({ manager }) => manager.created), used === 0)
    assert.equal(await peer.run(({ manager }) => manager.locksHeld()), [])
    assert.is(await peer.run(({ manager }) => manager.availableLocks()), 1000 - used)
    // A first one that is whole, and one that its last holder died in.
    assert.is((await take(peer, 0)).ownerDied, false)
    await release(peer, 0)
    const { ownerDied, token } = await take(peer, far)
    assert.is(ownerDied, used > 0)
    assert.ok(token > last)
    last = token
    await peer.run(({ manager, locker }, far) => {
      manager.allocateLock()
      if (manager.availableLocks() === 999) manager.allocateAndRetrieveLock(far)
      locker(far).unlock()
      locker(far).lockSync()
    }, far)
    used += used === 0 ? 2 : 1
    // It ends by itself: a kill of the wrapper would leave the time of the other's end open.
    peer.launch(() => process.exit(0))
    await peer.ended
  }
  const manager = openManager(options)
  assert.equal([manager.created, manager.capacity, manager.availableLocks()], [false, 1000, 996])
  throws(() => manager.allocateAndRetrieveLock(far), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
  assert.is(manager.retrieveLock(far).lockSync().ownerDied, true)
  assert.is(manager.retrieveLock(0).lockSync().ownerDied, false)
})

test('STALLED: somebody adds locks and does not get on', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const first = manager.allocateLock()
  const [stalled, other] = [new ProcessPeer(), new ProcessPeer()]
  await open(stalled, options)
  await open(other, options)
  // As if that process had been stopped in the middle of it.
  patch(manager.path, adminWordAt(manager.path), Uint32Array.of(stalled.pid))
  const refused = other.run(({ manager }, id) => void manager.retrieveLock(id), CHUNK_LOCKS)
  const { message } = await rejects(refused, 'ERR_ROBUST_LOCK_STALLED')
  assert.match(message, String(stalled.pid))
  assert.match(message, manager.path)
  // What is there already works meanwhile.
  first.lockSync().unlock()
  manager.allocateLock().free()
  // And once it is dead it is in nobody's way.
  await stalled.kill()
  assert.is(manager.allocateAndRetrieveLock(CHUNK_LOCKS).id, CHUNK_LOCKS)
})

test('STALLED: somebody adopts a segment and does not get on', async () => {
  const options = { name: unique() }
  const peer = new ProcessPeer()
  await open(peer, options)
  const path = await peer.run(({ manager }) => manager.path)
  patch(path, HEADER.stamps, new Uint8Array(STAMP_BYTES))
  const { message } = throws(() => openManager(options), 'ERR_ROBUST_LOCK_STALLED')
  assert.match(message, /fuser -v .*continue it/)
  await peer.kill()
  assert.is(openManager(options).created, false)
})

test('a helper thread that cannot be started is NO_MEMORY, and harms nothing', async () => {
  if (process.getuid?.() === 0) return notRun('NO_MEMORY for want of a thread', 'root may have any number of threads')
  if (!allows(['prlimit'], 'NO_MEMORY for want of a thread')) return
  const options = { name: unique() }
  const locker = openManager(options).allocateLock()
  const peer = new ProcessPeer()
  await open(peer, options)
  const guard = locker.lockSync()
  limit(peer, 'nproc', 1)
  for (let i = 0; i < 3; i++) await rejects(take(peer, locker.id, 'async'), 'ERR_ROBUST_LOCK_NO_MEMORY')
  limit(peer, 'nproc', '')
  const waiting = take(peer, locker.id, 'async')
  guard.unlock()
  assert.is((await waiting).ownerDied, false)
})

test('a helper thread that cannot be started behind a release leaves no task waiting', async () => {
  if (process.getuid?.() === 0) return notRun('NO_MEMORY behind a release', 'root may have any number of threads')
  if (!allows(['prlimit'], 'NO_MEMORY behind a release')) return
  const { manager, options, locker } = segment()
  const [own, next] = [new ProcessPeer(), new ProcessPeer()]
  await Promise.all([own, next].map((peer) => open(peer, options)))
  limit(own, 'nproc', 1)
  let fate: unknown
  // It may be faster than the next one, and have the lock.
  for (let tries = 0; tries < 50 && fate !== 'ERR_ROBUST_LOCK_NO_MEMORY'; tries++) {
    await take(own, locker.id)
    const task = own.run(({ locker }, id) => locker(id).lock().then((guard) => guard.unlock(), ({ code }) => code), locker.id)
    const taken = take(next, locker.id)
    await until('somebody stands at the gate', () => isWaitedFor(manager.path, locker.id))
    await release(own, locker.id)
    await taken
    fate = await task
    await release(next, locker.id)
  }
  assert.is(fate, 'ERR_ROBUST_LOCK_NO_MEMORY')
})

test.run()
