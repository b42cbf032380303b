// From the end of a holder inside its section to the next holder's first line, in ms: by SIGKILL, by
// worker.terminate(), by process.exit(); for a waiter in lockSync and one in lock(). Measured and printed,
// never asserted; until --seconds are over.
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { openManager } from 'robust-lock'
import { open, repair, take, type How } from '../__test__/fixtures/jobs.cjs'
import { ProcessPeer, WorkerPeer, endPeers, type Peer } from '../__test__/fixtures/peers.cjs'
import { isWaitedFor } from '../__test__/fixtures/segment.cjs'
import { until } from '../__test__/fixtures/within.cjs'
import { nowMs, quantile } from './fixtures/parties.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string' } } })
const path = `/dev/shm/robust-lock-soak-death-${process.pid}`
const note = `${path}.note`
process.once('exit', () => {
  for (const file of [path, note]) rmSync(file, { force: true })
})
process.once('SIGINT', () => process.exit(1))

const ways = {
  SIGKILL: { peer: () => new ProcessPeer(), end: async (peer: Peer) => void peer.kill() },
  'worker.terminate()': { peer: () => new WorkerPeer(), end: async (peer: Peer) => void peer.kill() },
  'process.exit()': {
    peer: () => new ProcessPeer(),
    end: async (peer: Peer) =>
      peer.launch(({ fs }, note) => {
        fs.writeFileSync(note, String(process.hrtime.bigint()))
        process.exit(0)
      }, note),
  },
} as const

async function main(): Promise<void> {
  const { id } = openManager({ path, mode: 'create', capacity: 1 }).allocateLock()
  const times = new Map<string, number[]>()
  const end = performance.now() + Number(values.seconds) * 1_000
  const waiter = new ProcessPeer()
  await open(waiter, { path })
  do {
    for (const [name, way] of Object.entries(ways)) {
      for (const how of ['sync', 'async'] as How[]) {
        const holder = way.peer()
        await open(holder, { path })
        await take(holder, id)
        const had = waiter.run(
          async ({ locker, guards }, { id, how }) => {
            const guard = how === 'sync' ? locker(id).lockSync() : await locker(id).lock()
            const now = Number(process.hrtime.bigint()) / 1e6
            guards.set(id, guard)
            return now
          },
          { id, how },
        )
        await until('it waits', () => isWaitedFor(path, id))
        rmSync(note, { force: true })
        const ended = nowMs()
        await way.end(holder)
        const at = await had
        const begun = existsSync(note) ? Number(readFileSync(note, 'utf8')) / 1e6 : ended
        await repair(waiter, id)
        await holder.ended
        const title = `${name}, ${how === 'sync' ? 'lockSync' : 'lock()'} waits`
        times.set(title, [...(times.get(title) ?? []), at - begun])
      }
    }
  } while (performance.now() < end)
  await endPeers()
  const out = new Table({ head: ['a holder ends by', 'times', 'median ms', 'p90 ms'], style: { head: [], border: [] }, colAligns: ['left', 'right', 'right', 'right'] })
  for (const [title, all] of times) out.push([title, all.length, quantile(all, 0.5).toFixed(2), quantile(all, 0.9).toFixed(2)])
  console.log(out.toString())
  process.exit(0)
}

main().catch((error: unknown) => {
  console.log(`death: FAILED: ${String(error)}`)
  process.exit(1)
})
