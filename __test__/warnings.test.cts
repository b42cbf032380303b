// Warnings: of a segment that was deleted while in use, and what a program makes of them.
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { throws } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { heldElsewhere, segment } from './fixtures/place.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { patience, until } from './fixtures/within.cjs'

const test = suite('warnings')

/** A job: from now on the program throws whatever it is to be warned of. */
function beStrict(): void {
  const thrown: string[] = []
  Object.assign(globalThis, { thrown })
  process.on('uncaughtException', ({ message }) => thrown.push(message))
  process.emitWarning = (warning: string | Error) => {
    throw new Error(String(warning).replace(/.* has been (deleted) .*/, '$1'))
  }
}

/** A job: what has been thrown, up to the next turn of the loop. */
async function thrown(): Promise<string[]> {
  await new Promise((resolve) => setImmediate(resolve))
  return (globalThis as unknown as { thrown: string[] }).thrown
}

interface Warning extends Error {
  code?: string
}

/** The warnings that come while `provoke` runs. */
async function warningsOf(provoke: () => unknown): Promise<Warning[]> {
  const warnings: Warning[] = []
  const keep = (warning: Warning): unknown => warnings.push(warning)
  process.on('warning', keep)
  try {
    await provoke()
    await turn()
  } finally {
    process.off('warning', keep)
  }
  return warnings
}

const STALE = 'ERR_ROBUST_LOCK_STALE_SEGMENT'

for (const provoke of ['allocateLock', 'retrieveLock', 'allocateAndRetrieveLock', 'free', 'freeAllLocks', 'open']) {
  test(`STALE_SEGMENT: a warning, once, when the file is deleted under running processes (${provoke})`, async () => {
    const manager = openManager({ name: unique() })
    const locker = manager.allocateLock()
    rmSync(manager.path)
    const act: Record<string, () => unknown> = {
      allocateLock: () => manager.allocateLock(),
      retrieveLock: () => manager.retrieveLock(0),
      allocateAndRetrieveLock: () => manager.allocateAndRetrieveLock(7),
      free: () => locker.free(),
      freeAllLocks: () => manager.freeAllLocks(),
      open: () => openManager({ name: unique() }),
    }
    // They go on with theirs: no call fails.
    const warnings = await warningsOf(async () => {
      let warned = false
      process.once('warning', () => (warned = true))
      act[provoke]?.()
      await turn()
      assert.ok(warned, `${provoke} warns`)
      manager.allocateLock()
      manager.retrieveLock(3).lockSync().unlock()
    })
    assert.equal(warnings.map(({ code }) => code), [STALE], provoke)
    assert.match(warnings[0]?.message as string, manager.path)
    assert.is(warnings[0]?.name, 'RobustLockWarning')
  })
}

for (const how of ['lock', 'lockSync'] as const) {
  test(`STALE_SEGMENT: seen by a ${how}() that waits`, async () => {
    const place = segment()
    const { manager, locker } = place
    const peer = await heldElsewhere(place)
    const warnings = await warningsOf(async () => {
      rmSync(manager.path)
      if (how === 'lockSync') {
        throws(() => locker.lockSync({ timeout: 700 }), 'ERR_ROBUST_LOCK_TIMEOUT')
        await release(peer, locker.id)
        return locker.lockSync().unlock()
      }
      let warned = false
      process.once('warning', () => (warned = true))
      const waiting = locker.lock()
      await until('the warning comes while it waits', () => warned)
      await release(peer, locker.id)
      ;(await waiting).unlock()
    })
    assert.equal(warnings.map(({ code }) => code), [STALE])
  })
}

test('a segment that is made anew beside a deleted one is another', async () => {
  const options = { name: unique() }
  const old = openManager(options)
  const guard = old.allocateLock().lockSync()
  rmSync(old.path)
  await warningsOf(async () => {
    const manager = openManager(options)
    assert.is(manager.created, true)
    const other = manager.allocateAndRetrieveLock(0).lockSync()
    assert.ok(other.token > guard.token)
    other.unlock()
    assert.is(isWaitedFor(manager.path, 0), false)
  })
  guard.unlock()
})

test('a warning that is thrown costs no lock its offer', async () => {
  const { manager, options, locker } = segment()
  const ids = [locker.id, manager.allocateLock().id]
  const [own, holder] = [new ProcessPeer(), new ProcessPeer()]
  await Promise.all([own, holder].map((peer) => open(peer, options)))
  await own.run(beStrict)
  for (const id of ids) await take(holder, id)
  const [deleted, seen] = [join(folder, unique()), join(folder, unique())]
  const letGo = holder.run(
    ({ fs, guards, tell }, seen) => {
      tell('looks for the file')
      while (!fs.existsSync(seen));
      for (const guard of guards.values()) guard.unlock()
      guards.clear()
    },
    seen,
  )
  const had = own.run(
    async ({ fs, locker, tell }, { ids, deleted, seen, ms }) => {
      const waits = ids.map(async (id) => (await locker(id).lock()).unlock())
      tell('waits')
      while (!fs.existsSync(deleted));
      // Longer than a slice: its helpers see it. Then their offers come and pass, and all of it is told in one call.
      const cell = new Int32Array(new SharedArrayBuffer(4))
      Atomics.wait(cell, 0, 0, ms)
      fs.writeFileSync(seen, '')
      Atomics.wait(cell, 0, 0, ms)
      await Promise.all(waits)
    },
    { ids, deleted, seen, ms: 1_000 * patience },
  )
  await Promise.all([own.hears('waits'), holder.hears('looks for the file')])
  await Promise.all(ids.map((id) => until('its helper stands at the gate', () => isWaitedFor(manager.path, id))))
  rmSync(manager.path)
  writeFileSync(deleted, '')
  await had
  assert.equal(await own.run(thrown), ['deleted'])
  await letGo
})

test('a warning that is thrown costs nobody the id, or the lock, that came with it', async () => {
  const allocates = new ProcessPeer()
  await open(allocates, { name: unique() })
  await allocates.run(beStrict)
  await allocates.run(({ fs, manager, guards }) => {
    fs.rmSync(manager.path)
    const { id } = manager.allocateLock()
    guards.set(id, manager.retrieveLock(id).lockSync())
  })
  assert.equal(await allocates.run(thrown), ['deleted'])

  const place = segment()
  const { manager, options, locker } = place
  const locks = new ProcessPeer()
  await open(locks, options)
  await locks.run(beStrict)
  const holder = await heldElsewhere(place)
  rmSync(manager.path)
  // It looks at a slice's end, and may have the lock before.
  for (let ms = 150; (await locks.run(thrown)).length === 0 && ms < 10_000; ms *= 2) {
    const taken = take(locks, locker.id)
    await delay(ms)
    await release(holder, locker.id)
    await taken
    await release(locks, locker.id)
    await take(holder, locker.id)
  }
  assert.equal(await locks.run(thrown), ['deleted'])
})

test.run()
