// Workers are terminated at random instants: waiting, with an offer on its way, holding, blocked in
// lockSync. The process lives, and every lock can be had afterwards. One round a Worker; --kills rounds,
// or until --seconds are over.
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { openManager } from 'robust-lock'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '600' }, kills: { type: 'string', default: '500' } } })
const AT_A_TIME = 3
const LOCKS = 2
const path = `/dev/shm/robust-lock-terminate-${process.pid}`
const manager = openManager({ path, mode: 'create', capacity: LOCKS })
process.once('exit', () => rmSync(path, { force: true }))

let [begun, ended, stuck, deaths] = [0, 0, 0, 0]

async function round(): Promise<void> {
  const worker = new Worker(join(__dirname, 'fixtures', 'terminate-worker.cjs'), { workerData: path })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 20))
  await worker.terminate()
  ended++
}

async function main(): Promise<void> {
  for (let id = 0; id < LOCKS; id++) manager.allocateLock()
  const end = performance.now() + Number(values.seconds) * 1000
  const rounds = async (): Promise<void> => {
    while (begun < Number(values.kills) && performance.now() < end) {
      begun++
      await round()
    }
  }
  await Promise.all(Array.from({ length: AT_A_TIME }, rounds))
  for (let id = 0; id < LOCKS; id++) {
    const guard = await manager.retrieveLock(id).lock({ timeout: 10_000 }).catch(() => undefined)
    if (guard === undefined) stuck++
    if (guard?.ownerDied) deaths++
    guard?.unlock()
  }
  console.log(`terminate: Node ${process.version}, ${ended} Workers terminated, ${deaths} of ${LOCKS} locks with an owner's death, ${stuck} stuck`)
  process.exitCode = stuck === 0 && ended > 0 ? 0 : 1
}

void main()
