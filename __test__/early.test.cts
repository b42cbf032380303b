// Early offers: a helper that is next calls its thread before the lock is free.
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { segment, type Place } from './fixtures/place.cjs'
import { notRun, suite } from './fixtures/suite.cjs'
import { patience } from './fixtures/within.cjs'

const test = suite('early')

/** Calls `heard` with each verdict on an early offer, until `done`; beside a peer that takes these locks in a loop. */
async function earlyOffers(place: Place, ids: number[], heard: (verdict: number | undefined) => boolean, own: () => Promise<unknown>): Promise<void> {
  const { load } = require(join(__dirname, '..', '..', 'dist', 'native.cjs')) as { load: (...callbacks: (() => void)[]) => { acceptEarly(key: number): number | undefined } }
  const native = load(() => {}, () => {})
  const { acceptEarly } = native
  let done = false
  native.acceptEarly = (key) => {
    const verdict = acceptEarly(key)
    done ||= heard(verdict)
    return verdict
  }
  const peer = new ProcessPeer()
  await open(peer, place.options)
  try {
    peer.launch(async ({ locker, tell }, ids) => {
      tell('begins')
      const several = ids.length > 1
      const turn = (): Promise<unknown> => new Promise((resolve) => setImmediate(resolve))
      await Promise.all(ids.map(async (id) => {
        for (;;) {
          const guard = await locker(id).lock()
          if (several) await turn()
          else for (const end = performance.now() + 0.05; performance.now() < end; );
          guard.unlock()
          if (several) await turn()
        }
      }))
    }, ids)
    await peer.hears('begins')
    const begun = performance.now()
    while (!done) {
      await own()
      assert.ok(performance.now() - begun < 50_000, 'early offers are made')
    }
  } finally {
    native.acceptEarly = acceptEarly
  }
}

test('where holds are short, a thread comes before the lock is free, and waits for it itself', async () => {
  if (patience > 1) return notRun('early offers', 'on an emulated machine no thread comes within 0.4 ms')
  const place = segment()
  let accepted = 0
  const heard = (verdict: number | undefined): boolean => verdict === undefined && ++accepted === 20
  await earlyOffers(place, [place.locker.id], heard, async () => {
    const guard = await place.locker.lock()
    assert.is(guard.ownerDied, false)
    guard.unlock()
  })
})

test('one early offer a turn of the loop is waited for, however many locks are next', async () => {
  if (patience > 1) return notRun('early offers', 'on an emulated machine no thread comes within 0.4 ms')
  const place = segment()
  const lockers = [place.locker, ...Array.from({ length: 15 }, () => place.manager.allocateLock())]
  let [calls, inTurn, most] = [0, 0, 0]
  const heard = (): boolean => {
    if (inTurn++ === 0) setImmediate(() => (inTurn = 0))
    most = Math.max(most, inTurn)
    return ++calls === 300
  }
  await earlyOffers(place, lockers.map(({ id }) => id), heard, () => Promise.all(lockers.map((locker) => locker.withLock(() => turn()))))
  assert.is(most, 1)
})

test.run()
