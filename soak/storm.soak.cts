// A storm: processes take locks, sync and async, while others are killed, stopped and continued at
// random instants. Nobody is ever inside with another, no update is torn without an announcement, and
// at the end every lock can be had.
import { fork, type ChildProcess } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openManager } from 'robust-lock'

const PROCESSES = 6
const LOCKS = 3
/** How long nobody may get anywhere, with all processes running: far beyond any slice. */
const STUCK_MS = 20_000

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '10' }, kills: { type: 'string' } } })
const seconds = Number(values.seconds)

const folder = mkdtempSync(join(tmpdir(), 'robust-lock-storm-'))
const segment = `/dev/shm/robust-lock-storm-${process.pid}`
const records = join(folder, 'records')
const statistics = join(folder, 'statistics')
for (const [file, bytes] of [[records, LOCKS * 24], [statistics, PROCESSES * 32]] as const) {
  const fd = openSync(file, 'w', 0o600)
  writeSync(fd, Buffer.alloc(bytes))
  closeSync(fd)
}
const manager = openManager({ path: segment, mode: 'create', capacity: LOCKS })
for (let i = 0; i < LOCKS; i++) manager.allocateLock()

const children: ChildProcess[] = []
let [kills, stops, done] = [0, 0, false]

function start(place: number): Promise<void> {
  const mode = place % 2 === 0 ? 'sync' : 'async'
  const child = fork(join(__dirname, 'fixtures', 'storm-worker.cjs'), [segment, records, statistics, String(place), mode])
  children[place] = child
  return new Promise((resolve) => {
    child.once('message', () => resolve())
    child.once('exit', (code, signal) => {
      resolve()
      if (!done && signal !== 'SIGKILL') {
        fail(`a worker ended by itself: ${code ?? signal}`)
      }
    })
  })
}

function totals(): number[] {
  const bytes = Buffer.alloc(PROCESSES * 32)
  const fd = openSync(statistics, 'r')
  readSync(fd, bytes, 0, bytes.length, 0)
  closeSync(fd)
  return [0, 1, 2, 3].map((index) => {
    let sum = 0
    for (let place = 0; place < PROCESSES; place++) sum += bytes.readDoubleLE(place * 32 + index * 8)
    return sum
  })
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

function cleanUp(): void {
  done = true
  for (const child of children) child.kill('SIGKILL')
  rmSync(segment, { force: true })
  rmSync(folder, { recursive: true, force: true })
}

function fail(why: string): never {
  cleanUp()
  console.log(`storm: FAILED: ${why}`)
  process.exit(1)
}

async function disturb(end: number): Promise<void> {
  while (performance.now() < end) {
    const place = Math.floor(Math.random() * PROCESSES)
    const child = children[place] as ChildProcess
    await sleep(Math.random() * 20)
    if (Math.random() < 0.5) {
      child.kill('SIGKILL')
      await new Promise((resolve) => child.once('exit', resolve))
      kills++
      await start(place)
    } else {
      child.kill('SIGSTOP')
      stops++
      await sleep(Math.random() * 200)
      child.kill('SIGCONT')
    }
  }
}

async function watch(end: number): Promise<void> {
  let [last, since, said] = [-1, performance.now(), performance.now()]
  while (performance.now() < end) {
    await sleep(200)
    const [acquisitions = 0] = totals()
    if (acquisitions !== last) [last, since] = [acquisitions, performance.now()]
    if (performance.now() - since > STUCK_MS) fail(`nobody has had a lock for ${STUCK_MS / 1000} s`)
    if (performance.now() - said > 10_000) {
      said = performance.now()
      console.log(`storm: ${kills} kills, ${stops} stops, ${acquisitions} acquisitions`)
    }
  }
}

async function main(): Promise<void> {
  process.once('SIGINT', () => fail('interrupted'))
  await Promise.all(Array.from({ length: PROCESSES }, (_, place) => start(place)))
  const end = performance.now() + seconds * 1000
  await Promise.all([disturb(end), watch(end)])
  done = true
  await Promise.all(
    children.map((child) => {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGKILL')
      return gone
    }),
  )
  const stuck = []
  for (let id = 0; id < LOCKS; id++) {
    const guard = await manager.retrieveLock(id).lock({ timeout: 10_000 }).catch(() => undefined)
    if (guard === undefined) stuck.push(id)
    guard?.unlock()
  }
  const [acquisitions = 0, doubles = 0, torn = 0, deaths = 0] = totals()
  cleanUp()
  console.log(`storm: ${kills} kills, ${stops} stops, ${acquisitions} acquisitions, ${deaths} owner deaths seen, ${doubles} double holds, ${torn} unannounced deaths, ${stuck.length} stuck`)
  process.exit(doubles + torn + stuck.length === 0 && kills > 0 && acquisitions > 0 ? 0 : 1)
}

main().catch((error: unknown) => fail(String(error)))
