// The end of the stack in the middle of a call: between the native one and the note that is taken of it, or within a hand-over.
import * as assert from 'uvu/assert'
import type { Guard } from 'robust-lock'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { isFree, segment } from './fixtures/place.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('cut-off')

for (const how of ['tryLock', 'lockSync'] as const) {
  test(`a ${how}() that the end of the stack cuts off keeps nothing`, async () => {
    const { manager, options, locker: { id } } = segment()
    // In a new process: what is compiled at its first call needs the more of the stack.
    const peer = new ProcessPeer()
    await open(peer, options)
    const found = await peer.run(
      ({ locker }, { id, how }) => {
        const lock = locker(id)
        let held: Guard | undefined
        let [cutOff, got] = [0, 0]
        const descend = (depth: number): void => {
          try {
            descend(depth + 1)
          } catch (error) {
            // At each depth on the way up: too deep at first, then in one instant or another, then well.
            try {
              held?.unlock()
              held = undefined
              held = lock[how]()
              got++
            } catch {
              cutOff++
            }
            throw error
          }
        }
        try {
          descend(0)
        } catch {
          held?.unlock()
        }
        const guard = lock.tryLock()
        guard?.unlock()
        return { cutOff: cutOff > 0, got: got > 0, ownerDied: guard?.ownerDied }
      },
      { id, how },
    )
    assert.equal(found, { cutOff: true, got: true, ownerDied: false })
    assert.equal(manager.locksHeld(), [])
  })
}

test('a Worker that ends before it could take note of its lock: nobody is told', async () => {
  const { manager, options, locker: { id } } = segment()
  // With a small stack: its end is come to some hundred times.
  const worker = new WorkerPeer({ resourceLimits: { stackSizeMb: 1 } })
  await open(worker, options)
  const cutOff = await worker.run(({ locker, manager }, id) => {
    const lock = locker(id)
    for (let depth = 0; depth < 1000; depth++) {
      let held: Guard | undefined
      let above = 0
      const descend = (): void => {
        try {
          descend()
        } catch (error) {
          try {
            if (above++ === depth) held = lock.lockSync()
          } catch {
            // The end of the stack: before the lock was taken, or before that was noted.
          }
          throw error
        }
      }
      try {
        descend()
      } catch {
        held?.unlock()
      }
      if (manager.locksHeld().length > 0) return true
    }
    return false
  }, id)
  assert.is(cutOff, true)
  await worker.kill()
  assert.is(manager.lockAllSync([id], { timeout: 45_000 }).ownerDied, false)
})

test('an unlock() at the end of the stack that throws has not handed over, and one that does not has', async () => {
  const { manager, options, locker: { id } } = segment()
  const peer = new ProcessPeer()
  await open(peer, options)
  const found = await peer.run(
    async ({ locker }, id) => {
      const lock = locker(id)
      const held = lock.lockSync()
      const waiting = [lock.lock({ signal: new AbortController().signal, timeout: 3_000 }), lock.lock()]
      let [cutOff, lies] = [0, 0]
      let done = false
      const descend = (depth: number): void => {
        try {
          descend(depth + 1)
        } catch (error) {
          if (!done) {
            try {
              held.unlock()
              done = true
            } catch (refusal) {
              cutOff++
              // The call before has released it, and thrown all the same.
              if ((refusal as { code?: string }).code !== undefined) {
                lies++
                done = true
              }
            }
          }
          throw error
        }
      }
      try {
        descend(0)
      } catch {
        // The end of the stack.
      }
      for (const wait of waiting) (await wait).unlock()
      return { cutOff: cutOff > 0, lies }
    },
    id,
  )
  assert.equal(found, { cutOff: true, lies: 0 })
  assert.equal(manager.locksHeld(), [])
})

/** Today nothing that can fail follows such a release: when JS sent the helper itself, its tasks could wait for ever. */
test('an unlock() at the end of the stack behind which tasks wait has released and sent for the lock, or neither', async () => {
  const place = segment()
  const { manager, options, locker: { id } } = place
  const [own, stranger] = [new ProcessPeer(), new ProcessPeer()]
  await Promise.all([own, stranger].map((peer) => open(peer, options)))
  for (let size = 1; size <= 24; size++) {
    await take(own, id)
    // Tasks of its own wait, and somebody at the gate: so nothing is handed over.
    own.launch(({ locker, tell }, id) => locker(id).lock().then((guard) => (guard.unlock(), tell('has had it'))), id)
    const taken = take(stranger, id)
    await until('somebody stands at the gate', () => isWaitedFor(manager.path, id))
    await own.run(
      ({ guards }, { id, size }) => {
        const held = guards.get(id) as Guard
        guards.delete(id)
        // Frames of one size and another: the end comes in one instant or another.
        const names = Array.from({ length: size }, (_, i) => `a${i}`)
        const frame = new Function('descend', `const ${names.map((name) => `${name} = descend`).join(', ')}; descend(); return ${names.join(' === ')}`) as (descend: () => void) => void
        let done = false
        const descend = (): void => {
          try {
            frame(descend)
          } catch (error) {
            try {
              if (!done) held.unlock()
              done = true
            } catch {
              done = !(held as Guard & { isHeld: boolean }).isHeld
            }
            throw error
          }
        }
        try {
          descend()
        } catch {
          // The end of the stack.
        }
      },
      { id, size },
    )
    await taken
    await release(stranger, id)
    // No other call of its thread follows.
    await own.hears('has had it')
  }
  await isFree(place)
})

test.run()
