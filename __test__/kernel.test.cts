// What only a native addon can bring about in a program of Node: a copy by fork(2), a kernel without robust lists.
// That the copy's own calls are refused (FORKED) is seen in crates/core/tests/processes/: V8 keeps its heap out of
// copies, so that none can run JavaScript.
import { readdirSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { rejects } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { withWorld, type World } from './fixtures/world.cjs'

const test = suite('kernel')

test('a copy of a holder, made by fork(2), owns nothing: neither its life nor its death is noticed', () =>
  withWorld('a copy of a holder', async (world) => {
    const options = { name: unique() }
    const manager = openManager(options)
    const locker = manager.allocateLock()
    const peer = new ProcessPeer()
    await open(peer, options)
    await take(peer, locker.id)
    const copy = await peer.run(({ require }, world) => (require(world) as World).copy(), world)
    assert.is(locker.tryLock(), undefined)
    // Of a lock that the original gives back while the copy lives, the copy keeps nothing.
    await release(peer, locker.id)
    let guard = await locker.lock()
    assert.is(guard.ownerDied, false)
    guard.unlock()
    // And one that the original still has when the copy is killed stays the original's.
    await take(peer, locker.id)
    process.kill(copy, 'SIGKILL')
    await peer.run(({ require }, { world, copy }) => (require(world) as World).reap(copy), { world, copy })
    assert.is(locker.tryLock(), undefined)
    assert.equal(manager.locksHeld(), [locker.id])
    await release(peer, locker.id)
    guard = locker.lockSync({ timeout: 10_000 })
    assert.is(guard.ownerDied, false)
    guard.unlock()
    // The original's end is a death as ever, also with a copy beside it that outlives it.
    await take(peer, locker.id)
    const orphan = await peer.run(({ require }, world) => (require(world) as World).copy(), world)
    await peer.kill()
    assert.is((await locker.lock({ timeout: 10_000 })).ownerDied, true)
    process.kill(orphan, 'SIGKILL')
  }))

test('NOT_ROBUST: a kernel without robust lists, and nothing is left behind', () =>
  withWorld('NOT_ROBUST', async (world) => {
    const options = { name: unique() }
    const peer = new ProcessPeer()
    await peer.run(({ require }, world) => (require(world) as World).withoutRobustLists(), world)
    for (let i = 0; i < 2; i++) {
      const { message } = await rejects(open(peer, options), 'ERR_ROBUST_LOCK_NOT_ROBUST')
      assert.match(message, /emulat|sandbox/)
    }
    assert.equal(readdirSync(folder).filter((name) => name === options.name), [])
    // Elsewhere it opens.
    openManager(options).allocateLock().lockSync().unlock()
    await rejects(open(peer, options), 'ERR_ROBUST_LOCK_NOT_ROBUST')
  }))

test.run()
