// The end of the stack, between the native call that acquires a lock and the note that is taken of it.
import * as assert from 'uvu/assert'
import { openManager, type Guard } from 'robust-lock'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { suite, unique } from './fixtures/suite.cjs'

const test = suite('cut-off')

for (const how of ['tryLock', 'lockSync'] as const) {
  test(`a ${how}() that the end of the stack cuts off keeps nothing`, async () => {
    const options = { name: unique() }
    const manager = openManager(options)
    const { id } = manager.allocateLock()
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
  const options = { name: unique() }
  const manager = openManager(options)
  const { id } = manager.allocateLock()
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

test.run()
