// Faults as a Node program meets them. Those of the core alone have their tests in crates/core/tests/faults_*.rs.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { getEventListeners } from 'node:events'
import { cpSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { open, release, take, tryTake } from './fixtures/jobs.cjs'
import { allows, unshare } from './fixtures/namespace.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { copySegment, isWaitedFor, owner, ownFields, patch, recordedTidAt, wordAt } from './fixtures/segment.cjs'
import type { Party } from './fixtures/scope.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'
import { until, within } from './fixtures/within.cjs'

const test = suite('faults')
const root = join(__dirname, '..', '..')

/** A folder that goes with the test. Not in /dev/shm: it may be mounted noexec. */
async function withFolder(use: (path: string) => unknown): Promise<void> {
  const path = mkdtempSync(join(tmpdir(), 'robust-lock-faults-'))
  try {
    await use(path)
  } finally {
    rmSync(path, { recursive: true, force: true })
  }
}

test('2,880 locks of one thread that is killed: the kernel loses some, and each of them is healed', () =>
  withFolder(async (path) => {
    // One copy of the library takes 960, less than the kernel releases. So it takes three.
    const copies = ['a', 'b', 'c'].map((name) => join(path, name))
    for (const copy of copies) {
      cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true })
      for (const file of readdirSync(root)) {
        if (file.endsWith('.node') || file === 'package.json') cpSync(join(root, file), join(copy, file))
      }
    }
    const options = { name: unique(), capacity: 4096 }
    const manager = openManager(options)
    const lockers = Array.from({ length: 2880 }, () => manager.allocateLock())
    const victim = new ProcessPeer()
    await victim.run(
      ({ require }, { copies, options }) => {
        copies.forEach((copy, part) => {
          const { openManager } = require(`${copy}/dist/index.cjs`) as typeof import('robust-lock')
          const manager = openManager(options)
          for (let i = 0; i < 960; i++) manager.retrieveLock(part * 960 + i).lockSync()
        })
      },
      { copies, options },
    )
    assert.is(manager.locksHeld().length, 2880)
    // By itself, in the middle of its own call: with musl a recursive mutex, of which V8 has some, stands in
    // the robust list as well while it is held, and would be one of those that the kernel sees to.
    victim.launch(() => process.kill(process.pid, 'SIGKILL'))
    await victim.ended
    const lost = lockers.filter(({ id }) => owner(manager.path, id, 'main') !== 0)
    assert.is(lost.length, 2880 - 2048, 'lost by the kernel')
    for (const locker of lockers) {
      const guard = locker.tryLock()
      assert.is(guard?.ownerDied, true, `lock ${locker.id}`)
      guard?.markConsistent()
      guard?.unlock()
    }
  }))

test('child processes of a holder take nothing from it, and keep nothing when it dies', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const { id } = manager.allocateLock()
  const holder = new ProcessPeer()
  await open(holder, options)
  await take(holder, id)
  const outliving = await holder.run(async ({ require }) => {
    const { execFileSync, fork, spawn, spawnSync } = require('node:child_process') as typeof import('node:child_process')
    spawnSync('true')
    execFileSync(process.execPath, ['-e', 'process.exit(0)'])
    const forked = fork('-e', ['0'], { execArgv: [] })
    await new Promise((resolve) => forked.once('exit', resolve))
    const sleep = spawn('sleep', ['600'], { stdio: 'ignore', detached: true })
    await new Promise((resolve) => sleep.once('spawn', resolve))
    return sleep.pid as number
  })
  try {
    assert.is(manager.retrieveLock(id).tryLock(), undefined)
    assert.equal(manager.locksHeld(), [id])
    await release(holder, id)
    await take(holder, id)
    await holder.kill()
    process.kill(outliving, 0)
    const guard = manager.retrieveLock(id).tryLock()
    assert.is(guard?.ownerDied, true)
    guard?.unlock()
  } finally {
    process.kill(outliving, 'SIGKILL')
  }
})

test('close() while holding lets go of nothing', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const { id } = manager.allocateLock()
  const [holder, other] = [new ProcessPeer(), new ProcessPeer()]
  await open(holder, options)
  await open(other, options)
  await take(holder, id)
  await holder.run(({ manager }) => manager.close())
  assert.is(await tryTake(other, id), undefined)
  const waiting = take(other, id, 'async')
  await until('it waits', () => isWaitedFor(manager.path, id))
  await release(holder, id)
  assert.is((await waiting).ownerDied, false)
})

test('a manager that is collected while a lock is held lets go of nothing', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const [kept, left] = [manager.allocateLock(), manager.allocateLock()]
  const holder = new ProcessPeer()
  await holder.run(
    async ({ lib, guards, vm, require }, { options, kept, left }) => {
      ;(require('node:v8') as typeof import('node:v8')).setFlagsFromString('--expose-gc')
      const gc = vm.runInNewContext('gc') as () => void
      const manager = new WeakRef(
        (() => {
          const manager = lib.openManager(options)
          // Of one lock the guard is kept, of the other nothing at all.
          guards.set(kept, manager.retrieveLock(kept).lockSync())
          manager.retrieveLock(left).lockSync()
          return manager
        })(),
      )
      while (manager.deref() !== undefined) {
        await new Promise((resolve) => setImmediate(resolve))
        gc()
      }
      gc()
    },
    { options, kept: kept.id, left: left.id },
  )
  assert.equal(manager.locksHeld(), [kept.id, left.id])
  assert.is(kept.tryLock(), undefined)
  await release(holder, kept.id)
  assert.is(kept.tryLock()?.ownerDied, false)
  assert.is(left.tryLock(), undefined)
  await holder.kill()
  assert.is(left.tryLock()?.ownerDied, true)
})

test('a segment that is replaced under running processes: they go on with theirs, and are warned', async () => {
  const options = { name: unique() }
  const manager = openManager(options)
  const locker = manager.allocateLock()
  const peer = new ProcessPeer()
  await open(peer, options)
  const replacement = join(folder, unique())
  copySegment(manager.path, replacement)
  await take(peer, locker.id)
  const warnings: string[] = []
  const keep = (warning: Error & { code?: string }): void => void warnings.push(warning.code ?? warning.name)
  process.on('warning', keep)
  try {
    renameSync(replacement, manager.path)
    assert.is(locker.tryLock(), undefined)
    const waiting = locker.lock()
    await until('it waits, and is warned', () => warnings.length > 0)
    await release(peer, locker.id)
    ;(await waiting).unlock()
    // Who opens now has the new one, and it is whole.
    const next = openManager(options)
    assert.equal([next.created, next.availableLocks()], [false, 2047])
    const guard = next.retrieveLock(locker.id).lockSync()
    locker.lockSync().unlock()
    guard.unlock()
  } finally {
    process.off('warning', keep)
  }
  assert.equal(warnings, ['ERR_ROBUST_LOCK_STALE_SEGMENT'])
})

/** Whatever there is to call, with outcomes that may be anything; the errors that have no code of ours. */
async function callEverything(party: Party): Promise<string[]> {
  return party.run(async ({ manager, locker }) => {
    const strange: string[] = []
    const call = async (what: () => unknown): Promise<void> => {
      try {
        await what()
      } catch (error) {
        const { code, stack } = error as { code?: string; stack?: string }
        if (!/^ERR_(ROBUST_LOCK_|OUT_OF_RANGE)/.test(code ?? '')) strange.push(stack ?? String(error))
      }
    }
    for (const id of [1, 255, 256, 300, 70_000, 2 ** 20 - 1]) {
      await call(() => locker(id).tryLock()?.unlock())
      await call(async () => (await locker(id).lock({ timeout: 10 })).unlock())
      await call(() => manager.allocateAndRetrieveLock(id).free())
      await call(() => manager.retrieveLock(id).free())
    }
    await call(() => {
      const locker = manager.allocateLock()
      locker.lockSync({ timeout: 10 }).unlock()
      locker.free()
    })
    await call(() => manager.availableLocks())
    await call(() => manager.locksHeld())
    await call(() => manager.lockAllSync([locker(2), locker(3)]).unlock())
    await call(() => manager.freeAllLocks())
    return strange
  })
}

test('noise in everything but the mutexes: those that have the segment exclude each other, and call what they like', async () => {
  const options = { name: unique() }
  const { path } = openManager(options)
  const peers = [new ProcessPeer(), new ProcessPeer(), new ProcessPeer()] as const
  const [holder, waiter, next] = peers
  for (const peer of peers) await open(peer, options)
  await take(holder, 0)
  const waiting = take(waiter, 0, 'async')
  waiting.catch(() => {})
  await until('it waits', () => isWaitedFor(path, 0))
  for (let round = 0; round < 20; round++) {
    for (const [at, length] of ownFields()) {
      const noise = createHash('shake256', { outputLength: length }).update(`${round} ${at}`)
      patch(path, at, noise.digest())
    }
    const excluded = async (): Promise<void> => assert.equal([await tryTake(waiter, 0), await tryTake(next, 0)], [undefined, undefined], `round ${round}`)
    await excluded()
    assert.equal(await Promise.all(peers.map(callEverything)), [[], [], []], `round ${round}`)
    await excluded()
  }
  await release(holder, 0)
  await waiting
  await waiter.kill()
  assert.is((await take(next, 0)).ownerDied, true)
  await rejects(open(new ProcessPeer(), options), 'ERR_ROBUST_LOCK_CORRUPT')
})

for (const how of ['lock', 'lockSync'] as const) {
  test(`an owner that seems to be lost, and cannot be proven to be, is told by a ${how}() that waits`, async () => {
    const options = { name: unique() }
    const manager = openManager(options)
    const locker = manager.allocateLock()
    const [victim, tenant] = [new ProcessPeer(), new ProcessPeer()]
    await open(victim, options)
    await open(tenant, options)
    await take(victim, locker.id)
    await victim.kill()
    // As if the number of the one that has died were that of the one that lives.
    for (const at of [wordAt(manager.path, locker.id, 'main'), recordedTidAt(locker.id)]) patch(manager.path, at, Uint32Array.of(tenant.pid))
    const warned = new Promise<Error & { code?: string }>((resolve) => process.once('warning', resolve))
    const waiting = how === 'lock' ? locker.lock() : Promise.reject(throws(() => locker.lockSync({ timeout: 700 }), 'ERR_ROBUST_LOCK_TIMEOUT'))
    waiting.catch(() => {})
    const { code, message } = await warned
    assert.is(code, 'ERR_ROBUST_LOCK_LOST_OWNER')
    assert.match(message, `Lock ${locker.id} `)
    assert.match(message, `thread ${tenant.pid} `)
    assert.is(locker.tryLock(), undefined, 'it is left alone')
    await tenant.kill()
    assert.is((await waiting.catch(() => locker.lock())).ownerDied, true)
  })
}

test('a wait that cannot begin leaves nothing behind', async () => {
  const manager = openManager({ name: unique() })
  const locker = manager.allocateLock()
  const guard = locker.lockSync()
  const order: string[] = []
  const first = locker.withLock(() => order.push('first'))
  const abort = new AbortController()
  // The timer's part of it fails, when the listener's is done.
  const { ceil } = Math
  Math.ceil = () => {
    throw new RangeError('no more')
  }
  const refused = locker.lock({ signal: abort.signal, timeout: 1000 })
  Math.ceil = ceil
  assert.is(await refused.then(() => 'granted', (error: Error) => error.message), 'no more')
  assert.is(getEventListeners(abort.signal, 'abort').length, 0)
  abort.abort()
  const last = locker.withLock(() => order.push('last'))
  guard.unlock()
  await within(Promise.all([first, last]), 'the others')
  assert.equal(order, ['first', 'last'])
})

test('a holder in another time namespace is no lost owner', async () => {
  const wrapper = unshare('--time', '--fork', '--kill-child', '--monotonic', '100000', '--boottime', '100000')
  if (!allows(wrapper, 'a holder in another time namespace')) return
  const options = { name: unique() }
  const manager = openManager(options)
  const locker = manager.allocateLock()
  const holder = new ProcessPeer({ wrapper })
  await open(holder, options)
  await take(holder, locker.id)
  const warnings: Error[] = []
  const keep = (warning: Error): number => warnings.push(warning)
  process.on('warning', keep)
  // Some slices of both kinds of wait.
  throws(() => locker.lockSync({ timeout: 300 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await rejects(locker.lock({ timeout: 300 }), 'ERR_ROBUST_LOCK_TIMEOUT')
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', keep)
  assert.equal(warnings.map(({ message }) => message), [])
  await release(holder, locker.id)
})

/** The wall clock goes forth and back by an hour with every look at it; the other clocks are as they are. */
const JUMPING_CLOCK = `
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
  static unsigned looks;
  return __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED) % 2 ? 3600 : -3600;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
  if (syscall(SYS_clock_gettime, clock, at) != 0) return -1;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) at->tv_sec += jump();
  return 0;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
`

test('a wall clock that is set forth and back by an hour does not touch a wait', () =>
  withFolder(async (path) => {
    const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
    const [major = 0, minor = 0] = (header.glibcVersionRuntime ?? '0').split('.').map(Number)
    if (major < 2 || (major === 2 && minor < 30)) return notRun('a clock that is set', 'this C library has no pthread_mutex_clocklock')
    const library = join(path, 'clock.so')
    writeFileSync(join(path, 'clock.c'), JUMPING_CLOCK)
    const built = spawnSync('cc', ['-shared', '-fPIC', '-o', library, join(path, 'clock.c')], { encoding: 'utf8' })
    if (built.status !== 0) return notRun('a clock that is set', built.error?.message ?? built.stderr)
    const options = { name: unique() }
    const manager = openManager(options)
    const { id } = manager.allocateLock()
    const jumping = (): ProcessPeer => new ProcessPeer({ env: { LD_PRELOAD: library } })
    const [waiter, holder] = [jumping(), jumping()]
    await open(waiter, options)
    await open(holder, options)
    const looks = await waiter.run(() => Array.from({ length: 10 }, () => Date.now()))
    assert.ok(Math.max(...looks) - Math.min(...looks) > 3_600_000, 'it jumps')
    await take(holder, id)
    const timeouts = await waiter.run(async ({ locker }, id) => {
      const outcomes: string[] = []
      for (const wait of [() => locker(id).lockSync({ timeout: 300 }), () => locker(id).lock({ timeout: 300 })]) {
        const begun = performance.now()
        try {
          await wait()
          outcomes.push('it got the lock')
        } catch (error) {
          // By the monotonic clock: not before its time. (A timer's tick is a millisecond.)
          outcomes.push(performance.now() - begun > 298 ? (error as { code: string }).code : 'too early')
        }
      }
      return outcomes
    }, id)
    assert.equal(timeouts, Array(2).fill('ERR_ROBUST_LOCK_TIMEOUT'))
    for (const how of ['sync', 'async'] as const) {
      // What a slice's end must find: an owner that is gone without the kernel's mark.
      const victim = jumping()
      await open(victim, options)
      await release(holder, id)
      await take(victim, id)
      const tid = owner(manager.path, id, 'main')
      await victim.kill()
      patch(manager.path, wordAt(manager.path, id, 'main'), Uint32Array.of(tid))
      assert.is((await take(waiter, id, how)).ownerDied, true)
      await waiter.run(({ guards }, id) => guards.get(id)?.markConsistent(), id)
      // And a release, while it waits.
      const next = take(holder, id, how)
      await until('it waits', () => isWaitedFor(manager.path, id))
      await release(waiter, id)
      assert.is((await next).ownerDied, false)
    }
  }))

test.run()
