// Nothing but a pending lock() keeps a process alive, and that does.
import * as assert from 'uvu/assert'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer, type Peer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { segment, type Place } from './fixtures/place.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('alive')

/** From here on only the library can keep the peer: it does not listen to the test any more. */
function letsGo({ workers, tell }: Scope): void {
  tell('on its own')
  if (workers.parentPort !== null) workers.parentPort.unref()
  else process.channel?.unref()
}

const kinds: [string, () => Peer][] = [
  ['a process', () => new ProcessPeer()],
  ['a Worker', () => new WorkerPeer()],
]

for (const [kind, makePeer] of kinds) {
  async function peerOf(place: Place): Promise<Peer> {
    const peer = makePeer()
    await open(peer, place.options)
    return peer
  }

  async function endsByItself(peer: Peer): Promise<void> {
    peer.launch(letsGo)
    assert.is((await peer.ended).code, 0)
  }

  test(`${kind} with an open manager ends`, async () => {
    await endsByItself(await peerOf(segment()))
  })

  test(`${kind} that has waited ends, holder or not`, async () => {
    for (const holds of [false, true]) {
      const place = segment()
      const peer = await peerOf(place)
      const guard = place.locker.lockSync()
      const waiting = take(peer, place.locker.id, 'async')
      await until('it waits', () => isWaitedFor(place.manager.path, place.locker.id))
      guard.unlock()
      await waiting
      if (!holds) await release(peer, place.locker.id)
      await endsByItself(peer)
      assert.is(place.locker.lockSync().ownerDied, holds)
    }
  })

  test(`${kind} whose waits were called off ends`, async () => {
    const place = segment()
    const peer = await peerOf(place)
    const guard = place.locker.lockSync()
    const ends = peer.run(async ({ lib, manager, locker }, { id, options }) => {
      const abort = new AbortController()
      const other = lib.openManager(options)
      const waits = [
        locker(id).lock({ signal: abort.signal }),
        locker(id).lock({ timeout: 1 }),
        locker(id).lock({ signal: abort.signal, timeout: 100_000 }),
        other.retrieveLock(id).lock({ timeout: 100_000 }),
        other.retrieveLock(id).lock(),
      ]
      const outcomes = Promise.allSettled(waits)
      abort.abort()
      other.close()
      manager.close()
      return (await outcomes).map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as NodeJS.ErrnoException).code : 'granted'))
    }, { id: place.locker.id, options: place.options })
    const closed = 'ERR_ROBUST_LOCK_CLOSED'
    // Number 20 is the DOMException's: AbortError.
    assert.equal(await ends, [20, closed, 20, closed, closed])
    await endsByItself(peer)
    guard.unlock()
  })

  test(`${kind} with a pending lock() lives until it is granted`, async () => {
    const place = segment()
    const peer = await peerOf(place)
    const guard = place.locker.lockSync()
    peer.launch(async ({ locker, workers, tell }, id) => {
      const waiting = locker(id).lock()
      tell('on its own')
      if (workers.parentPort !== null) workers.parentPort.unref()
      else process.channel?.unref()
      const guard = await waiting
      guard.unlock()
      // What tells that it was still there.
      process.exitCode = 5
    }, place.locker.id)
    await peer.hears('on its own')
    await until('it waits', () => isWaitedFor(place.manager.path, place.locker.id))
    guard.unlock()
    assert.is((await peer.ended).code, 5)
    assert.is(place.locker.lockSync().ownerDied, false)
  })
}

test('a process whose tasks have handed the lock on among themselves ends', async () => {
  const place = segment()
  const peer = new ProcessPeer()
  await open(peer, place.options)
  peer.launch(async ({ locker, tell }, id) => {
    const guard = await locker(id).lock()
    const waits = [1, 2, 3].map(() => locker(id).lock())
    guard.unlock()
    for (const wait of waits) (await wait).unlock()
    tell('on its own')
    process.channel?.unref()
  }, place.locker.id)
  assert.is((await peer.ended).code, 0)
})

test.run()
