// From the SIGKILL of a holder to the next holder's first line: this process waits for a lock that a
// child holds, and kills it.
import { fork } from 'node:child_process'
import { rmSync } from 'node:fs'
import { openManager } from '../../dist/index.cjs'
import { report } from './measure.mjs'

const [, , role, segment] = process.argv

if (role === 'holder') {
  openManager({ path: segment, mode: 'open' }).retrieveLock(0).lockSync()
  process.send('held')
  setInterval(() => {}, 1_000)
}

export async function death({ rounds }) {
  const path = `/dev/shm/robust-lock-benchmark-${process.pid}-death`
  const locker = openManager({ path, mode: 'create' }).allocateLock()
  const times = { async: [], sync: [] }
  try {
    for (let round = 0; round < rounds * 2; round++) {
      for (const how of ['async', 'sync']) {
        const holder = fork(new URL(import.meta.url), ['holder', path])
        await new Promise((resolve) => holder.once('message', resolve))
        const gone = new Promise((resolve) => holder.once('exit', resolve))
        // It waits already, in the first case; in the second the thread begins to wait after the kill.
        const wait = how === 'async' ? locker.lock() : undefined
        await new Promise((resolve) => setTimeout(resolve, 20))
        const begun = performance.now()
        holder.kill('SIGKILL')
        const guard = wait === undefined ? locker.lockSync() : await wait
        times[how].push((performance.now() - begun) * 1e6)
        guard.markConsistent()
        guard.unlock()
        await gone
      }
    }
  } finally {
    rmSync(path, { force: true })
  }
  const results = Object.entries(times).map(([how, values]) => {
    const sorted = values.toSorted((a, b) => a - b)
    const at = (share) => sorted[Math.floor((sorted.length - 1) * share)]
    return { name: `${how} waiter`, target: '≤ 5 ms', median: at(0.5), low: at(0.25), high: at(0.75), rounds: values }
  })
  report('SIGKILL → next holder', results, 'async waiter')
}
