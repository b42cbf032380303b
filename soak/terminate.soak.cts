// Workers are terminated while they wait, while a helper of theirs offers, while they hold, while they
// are blocked in lockSync, and wherever chance finds them. The process lives, the lock's owner was a
// victim if and only if it was inside, and no gate, lock or helper thread is left behind. One round a
// Worker; --kills rounds, or until --seconds are over. NODE_BINARY names another node.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { openManager, type Guard, type Locker } from 'robust-lock'
import { isWaitedFor } from '../__test__/fixtures/segment.cjs'
import { helpers } from '../__test__/fixtures/threads.cjs'
import { until } from '../__test__/fixtures/within.cjs'

export const STATES = ['waiting', 'reserved', 'held', 'blocked', 'anywhere'] as const
export type State = (typeof STATES)[number]
/** What a Worker is started with. */
export interface Victim {
  path: string
  id: number
  state: State
}

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '600' }, kills: { type: 'string', default: '500' } } })
const AT_A_TIME = 3
const path = `/dev/shm/robust-lock-terminate-${process.pid}`
const manager = openManager({ path, mode: 'create', capacity: AT_A_TIME })
process.once('exit', () => rmSync(path, { force: true }))

const terminated = new Map<State, number>(STATES.map((state) => [state, 0]))
let [begun, victims, longest] = [0, 0, 0]
const wrong: string[] = []

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function round(locker: Locker, state: State): Promise<void> {
  const holder: Guard | undefined = state === 'held' || state === 'anywhere' ? undefined : locker.lockSync()
  const data: Victim = { path, id: locker.id, state }
  const worker = new Worker(join(__dirname, 'fixtures', 'terminate-worker.cjs'), { workerData: data })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  if (holder !== undefined) await until('it stands at the gate', () => isWaitedFor(path, locker.id))
  // Its thread is busy: the offer is made to nobody, and then missed.
  if (state === 'reserved') holder?.unlock()
  await sleep(Math.random() * (state === 'blocked' ? 150 : state === 'anywhere' ? 20 : 8))
  const at = performance.now()
  await worker.terminate()
  longest = Math.max(longest, performance.now() - at)
  terminated.set(state, (terminated.get(state) as number) + 1)
  if (holder !== undefined && state !== 'reserved') holder.unlock()
  const guard = await locker.lock({ timeout: 10_000 })
  if (guard.ownerDied) victims++
  if (state !== 'anywhere' && guard.ownerDied !== (state === 'held')) wrong.push(`${state}: ownerDied is ${guard.ownerDied}`)
  guard.markConsistent()
  guard.unlock()
  await until('the gates are open', () => !isWaitedFor(path, locker.id))
}

async function main(): Promise<void> {
  const end = performance.now() + Number(values.seconds) * 1000
  const rounds = async (): Promise<void> => {
    const locker = manager.allocateLock()
    while (begun < Number(values.kills) && performance.now() < end) await round(locker, STATES[begun++ % STATES.length] as State)
  }
  await Promise.all(Array.from({ length: AT_A_TIME }, rounds))
  await until('the helpers have gone', () => helpers() === 0)
  const held = manager.locksHeld().length
  const states = [...terminated].map(([state, count]) => `${count} ${state}`).join(', ')
  console.log(`terminate: Node ${process.version}: ${begun} Workers terminated (${states}), the longest in ${longest.toFixed(0)} ms; ${victims} owner's deaths, ${wrong.length} wrong, ${held} locks left held; all gates are open and all helpers gone`)
  for (const what of new Set(wrong)) console.log(`  ${what}`)
  process.exitCode = wrong.length + held === 0 && begun > 0 ? 0 : 1
}

main().catch((error: unknown) => {
  console.log(`terminate: FAILED after ${begun} rounds: ${String(error)}`)
  process.exit(1)
})
