// Every call in any order, by several threads and processes with several managers and tasks each: nobody
// is inside twice, and nothing is refused for another reason than it may be.
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { ProcessPeer, WorkerPeer } from './fixtures/peers.cjs'
import { here, type Party, type Scope } from './fixtures/scope.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'

const test = suite('anything')

interface Task {
  name: string
  ids: number
  /** Who is inside has a file here, made with O_EXCL. */
  inside: string
  rounds: number
}

/** What went wrong, and how often each call came to what. */
async function anything({ lib, fs }: Scope, { name, ids, inside, rounds }: Task): Promise<{ wrong: string[]; came: Record<string, number> }> {
  const wrong: string[] = []
  const came: Record<string, number> = {}
  const managers = [lib.openManager({ name }), lib.openManager({ name })]
  const any = (n: number): number => Math.floor(Math.random() * n)
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  const enter = (id: number): void => fs.closeSync(fs.openSync(`${inside}/${id}`, 'wx'))
  const leave = (id: number): void => fs.unlinkSync(`${inside}/${id}`)
  const visit = (id: number): void => {
    enter(id)
    leave(id)
  }
  // A thread that blocks without end, while a task of its own holds what the other one waits for, is a
  // program's mistake; so lockSync has a timeout.
  const calls: Record<string, (at: 0 | 1) => unknown> = {
    tryLock: (at) => {
      const guard = managers[at]?.retrieveLock(any(ids)).tryLock()
      if (guard === undefined) return
      visit(guard.id)
      guard.unlock()
    },
    lockSync: (at) => {
      const locker = managers[at]?.retrieveLock(any(ids))
      const guard = locker?.lockSync({ timeout: any(20) })
      visit(guard?.id as number)
      locker?.unlock()
    },
    withLockSync: (at) => {
      const thrown = new Error('thrown on purpose')
      try {
        managers[at]?.retrieveLock(any(ids)).withLockSync(({ id }) => {
          visit(id)
          throw thrown
        }, { timeout: any(20) })
        wrong.push('withLockSync swallowed an error')
      } catch (error) {
        if (error !== thrown) throw error
      }
    },
    withLock: (at) =>
      managers[at]?.retrieveLock(any(ids)).withLock(async ({ id }) => {
        enter(id)
        if (any(3) === 0) await turn()
        leave(id)
      }, { timeout: any(50) }),
    'lock, one try': async (at) => {
      const guard = await managers[at]?.retrieveLock(any(ids)).lock({ timeout: 0 })
      visit(guard?.id as number)
      guard?.[Symbol.dispose]()
      guard?.[Symbol.dispose]()
    },
    'lock, called off': async (at) => {
      const abort = new AbortController()
      const waiting = managers[at]?.retrieveLock(any(ids)).lock({ signal: abort.signal })
      if (any(2) === 0) setTimeout(() => abort.abort({ code: 'called off' }), any(4))
      const guard = await waiting
      visit(guard?.id as number)
      guard?.unlock()
    },
    'lock, closed': async (at) => {
      const manager = managers[at]
      const waiting = manager?.retrieveLock(any(ids)).lock()
      if (any(10) === 0) {
        manager?.close()
        managers[at] = lib.openManager({ name })
      }
      const guard = await waiting
      visit(guard?.id as number)
      guard?.unlock()
      try {
        guard?.unlock()
        wrong.push('a second unlock')
      } catch (error) {
        if ((error as { code: string }).code !== 'ERR_ROBUST_LOCK_NOT_HELD') throw error
      }
    },
    'unlock of nothing': (at) => {
      managers[at]?.retrieveLock(any(ids)).unlock()
      wrong.push('an unlock of what this Locker has not')
    },
  }
  const allowed = new Set(['TIMEOUT', 'CLOSED', 'WOULD_DEADLOCK', 'NOT_HELD', 'NOT_OWNER'].map((code) => `ERR_ROBUST_LOCK_${code}`))
  const task = async (): Promise<void> => {
    for (let round = 0; round < rounds; round++) {
      const name = Object.keys(calls)[any(Object.keys(calls).length)] as string
      let end = name
      try {
        await calls[name]?.(any(2) as 0 | 1)
      } catch (error) {
        end = (error as { code?: string }).code ?? String(error)
        if (end !== 'called off' && !allowed.has(end)) wrong.push(`${name}: ${String(error)}`)
      }
      came[end] = (came[end] ?? 0) + 1
      if (any(5) === 0) await turn()
    }
  }
  await Promise.all(Array.from({ length: 6 }, task))
  for (const manager of managers) manager.close()
  return { wrong, came }
}

test('8 calls, 3 locks, 2 managers and 6 tasks in each of 5 threads', async () => {
  const name = unique()
  const inside = join(folder, unique())
  mkdirSync(inside)
  const manager = openManager({ name })
  const task = { name, ids: 3, inside, rounds: 250 }
  const parties: Party[] = [here(), new WorkerPeer(), new WorkerPeer(), new ProcessPeer(), new ProcessPeer()]
  const results = await Promise.all(parties.map((party) => party.run(anything, task)))
  for (const { wrong } of results) assert.equal(wrong, [])
  // All that can come about did, somewhere.
  const often = (end: string): number => results.reduce((sum, { came }) => sum + (came[end] ?? 0), 0)
  for (const end of ['tryLock', 'lockSync', 'withLock', 'lock, closed', 'called off', 'ERR_ROBUST_LOCK_TIMEOUT']) assert.ok(often(end) > 0, end)
  assert.equal(readdirSync(inside), [])
  assert.equal(manager.locksHeld(), [])
  for (const id of [0, 1, 2]) assert.is(manager.retrieveLock(id).lockSync().ownerDied, false)
})

test.run()
