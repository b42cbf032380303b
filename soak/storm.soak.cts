// A storm: processes take locks, sync and async, with Workers and without, while others are killed,
// stopped and continued at random instants, and Workers terminated. Nobody is ever inside with another,
// no update is torn without an announcement, no id is handed out twice, or while it is held, or lost, and
// nobody sleeps beside a free lock. It ends after --kills of processes, when --seconds are over, or with an interrupt.
import { fork, type ChildProcess } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openManager } from 'robust-lock'
import { patience } from '../__test__/fixtures/within.cjs'
import { Progress, tell, type Figures } from './fixtures/figures.cjs'
import { freeFor, stateOf, threadOf } from './fixtures/storm-oracles.cjs'
import { LOCKS, PLACES, THREADS, makeRows, stormsRow, type Row } from './fixtures/storm-rows.cjs'
import { Watchdog } from './fixtures/storm-watchdog.cjs'
import type { Mode, Start } from './fixtures/storm-worker.cjs'

/** By place. */
const MODES: Mode[] = ['with Workers', 'sync', 'async', 'with Workers', 'mixed', 'async', 'pool', 'pool']
const CAPACITY = 256
/** How long nobody may get anywhere while those who want to sleep: far beyond any slice. */
const STUCK_MS = 20_000 * patience
/** The same if some of them would run, and get no processor. */
const STARVED_MS = 6 * STUCK_MS
/**
 * After so many kills nobody begins anew until all who wait have had their locks: a waiter that sleeps on
 * would not be noticed among others who come and go. And how long that may take.
 */
const CALM_AFTER = 20
const CALM_MS = 15_000 * patience

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '600' }, kills: { type: 'string', default: '500' } } })
const wanted = Number(values.kills)

// As a test it is in the suite's folder, which the runner removes should this process not come to it.
const folder = mkdtempSync(join(process.env['ROBUST_LOCK_DIR'] || '/dev/shm', `robust-lock-storm-${process.pid}-`))
const segment = join(folder, 'segment')
const rows = makeRows(join(folder, 'rows'))
const own = stormsRow(join(folder, 'rows'))
const pairs = openSync(join(folder, 'pairs'), 'wx', 0o600)
writeSync(pairs, Buffer.alloc(LOCKS * 16))
closeSync(pairs)
const manager = openManager({ path: segment, mode: 'create', capacity: CAPACITY })
for (let i = 0; i < LOCKS; i++) manager.allocateLock()

/** Those that run, by place; and all that there are. */
const children: (ChildProcess | undefined)[] = Array.from({ length: PLACES })
const living = new Set<ChildProcess>()
let [kills, stops, excused, stuck, lost, longestCalm, done, interrupted] = [0, 0, 0, 0, 0, 0, false, false]
const possible = Array.from({ length: LOCKS }, () => 0)

function rowsOf(place: number): Row[] {
  return rows.slice(place * THREADS, (place + 1) * THREADS)
}

/** A process has been reaped: what may it have left? */
function bury(place: number, pid: number): void {
  for (const row of rowsOf(place)) {
    row.read()
    excused += row.get('in the pool')
    for (let id = 0; id < LOCKS; id++) possible[id] = (possible[id] as number) + row.get('around', id)
    row.begin(0, 0)
  }
  freeFor(folder, CAPACITY, (name) => threadOf(name).startsWith(`${pid}/`), (id) => {
    try {
      manager.retrieveLock(id).free()
    } catch (error) {
      lost++
      console.error(`** lost allocations: id ${id} of a dead process: ${String(error)}`)
    }
  })
}

/** Starts a process in that place, for as long as it lives; resolves when it has ended. */
async function live(place: number): Promise<void> {
  const mode = MODES[place] as Mode
  const start: Start = { segment, folder, place, thread: 0, mode }
  const child = fork(join(__dirname, 'fixtures', 'storm-worker.cjs'), [JSON.stringify(start)])
  living.add(child)
  child.once('message', () => (children[place] = child))
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.once('exit', (...end) => resolve(end))
  })
  living.delete(child)
  children[place] = undefined
  bury(place, child.pid as number)
  // From a terminal an interrupt comes to all.
  if (signal !== 'SIGKILL' && !(interrupted && signal === 'SIGINT')) fail(`a process ended by itself: ${code ?? signal}`)
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

function cleanUp(): void {
  done = true
  for (const child of living) child.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}

function fail(why: string): never {
  cleanUp()
  console.log(`storm: FAILED: ${why}`)
  process.exit(1)
}

function setCalm(calm: 0 | 1): void {
  own.set('calm', calm)
  own.write()
}

/** Nobody comes, is killed or stopped: whoever waits gets its lock. */
async function calmDown(): Promise<void> {
  setCalm(1)
  const begun = performance.now()
  const isOut = (row: Row): boolean => Array.from({ length: LOCKS }, (_, id) => row.get('around', id)).every((count) => count === 0)
  for (let out = false; !out && !done;) {
    await sleep(5)
    for (const row of rows) row.read()
    out = rows.every(isOut)
    longestCalm = Math.max(longestCalm, performance.now() - begun)
    if (out || longestCalm < CALM_MS) continue
    const inside = rows.findIndex((row) => !isOut(row))
    console.error(`** stuck: thread ${inside % THREADS} of place ${Math.floor(inside / THREADS)} does not get out`)
    stuck++
    done = true
  }
  setCalm(0)
}

async function disturb(end: number): Promise<void> {
  let calmAt = CALM_AFTER
  while (!done && kills < wanted && performance.now() < end) {
    if (kills >= calmAt) {
      await calmDown()
      calmAt = kills + CALM_AFTER
    }
    await sleep(Math.random() * 20)
    const place = Math.floor(Math.random() * PLACES)
    const child = children[place]
    // One with Workers lives longer, time for it to terminate some; and so does one that allocates and frees.
    if (child === undefined || (['with Workers', 'pool'].includes(MODES[place] as Mode) && Math.random() < 0.8)) continue
    if (Math.random() < 0.8) {
      // Once is enough: its place is empty until the next one runs.
      children[place] = undefined
      child.kill('SIGKILL')
      kills++
    } else {
      child.kill('SIGSTOP')
      stops++
      await sleep(Math.random() * 100)
      child.kill('SIGCONT')
    }
  }
}

/**
 * Stops those that allocate and free without a pause, for a moment each: so now and then one of them finds
 * the map of ids changed between its look and its swap, on however few processors.
 */
async function jolt(): Promise<void> {
  const places = MODES.flatMap((mode, place) => (mode === 'pool' ? [place] : []))
  for (let i = 0; !done; i++) {
    const child = children[places[i % places.length] as number]
    child?.kill('SIGSTOP')
    await sleep(1)
    child?.kill('SIGCONT')
  }
}

function sum(name: Parameters<Row['get']>[0], id = 0): number {
  return rows.reduce((total, row) => total + row.get(name, id), 0)
}

function figures(longest: number): Figures {
  return {
    kills,
    stops,
    'Workers terminated': sum('terminated'),
    acquisitions: sum('acquisitions'),
    'owner deaths announced': Array.from({ length: LOCKS }, (_, id) => sum('announced', id)).reduce((a, b) => a + b),
    'ms on a free lock at most': Math.round(longest),
    'ms to a calm at most': Math.round(longestCalm),
    'double holds': sum('double holds'),
    stuck,
    leaked: leaked(),
    'unannounced deaths': sum('unannounced deaths'),
    'false alarms': falseAlarms(),
    'double allocations': sum('double allocations'),
    'lost allocations': lost + sum('lost allocations'),
  }
}

/** Announced deaths for which there was none, as far as that is known. */
function falseAlarms(): number {
  if (!done) return 0
  const known = (id: number): number => (possible[id] as number) + sum('possible', id) + sum('unrepaired', id)
  return Array.from({ length: LOCKS }, (_, id) => Math.max(0, sum('announced', id) - known(id))).reduce((a, b) => a + b)
}

/** By the bitmap in the file: what is allocated when all are dead, beyond those who were killed at it. */
function leaked(): number {
  if (!done) return 0
  const bits = new Uint8Array(CAPACITY / 8)
  const fd = openSync(segment, 'r')
  readSync(fd, bits, 0, bits.length, 4096)
  closeSync(fd)
  const allocated = [...bits].map((byte) => byte.toString(2).replaceAll('0', '').length).reduce((a, b) => a + b)
  return Math.max(0, allocated - LOCKS - excused - sum('excused'))
}

/** Whether there are some who want a lock or have one, and none of them runs or would run. */
function allSleep(): boolean {
  const around = rows.filter((row) => Array.from({ length: LOCKS }, (_, id) => row.get('around', id)).some((count) => count > 0))
  return around.length > 0 && around.every((row) => stateOf(`${row.get('pid')}/task/${row.get('tid')}`) === 'S')
}

async function watch(progress: Progress, watchdog: Watchdog): Promise<void> {
  let [last, since, awake] = [-1, performance.now(), performance.now()]
  while (!done) {
    await sleep(50)
    for (const row of rows) row.read()
    const acquisitions = sum('acquisitions')
    if (acquisitions !== last) [last, since, awake] = [acquisitions, performance.now(), performance.now()]
    else if (!allSleep()) awake = performance.now()
    if (performance.now() - awake > STUCK_MS) fail(`nobody has had a lock for ${STUCK_MS / 1000} s, and all sleep`)
    if (performance.now() - since > STARVED_MS) fail(`nobody has had a lock for ${STARVED_MS / 1000} s`)
    const word = watchdog.look()
    if (word !== undefined) {
      console.error(`** stuck: ${word}`)
      stuck++
      done = true
    }
    progress.show(figures(watchdog.longest))
  }
}

async function main(): Promise<void> {
  process.on('SIGINT', () => (done = interrupted = true))
  const [progress, watchdog] = [new Progress('storm', wanted), new Watchdog(folder, rows)]
  const places = children.map(async (_, place) => {
    while (!done) await live(place)
  })
  const watching = watch(progress, watchdog)
  const jolting = jolt()
  const end = performance.now() + Number(values.seconds) * 1000
  await disturb(end)
  // Where a process takes long to start, all may have been killed before the end of their first Worker.
  while (!done && sum('terminated') === 0 && performance.now() < end) await sleep(50)
  done = true
  await Promise.all([watching, jolting])
  progress.stop()
  for (const child of living) child.kill('SIGKILL')
  await Promise.all(places)
  for (const row of rows) row.read()
  for (let id = 0; id < LOCKS; id++) {
    const guard = await manager.retrieveLock(id).lock({ timeout: 10_000 }).catch(() => undefined)
    if (guard === undefined) stuck++
    guard?.unlock()
  }
  const found = figures(watchdog.longest)
  cleanUp()
  tell('storm', found)
  const wrong = ['double holds', 'stuck', 'leaked', 'unannounced deaths', 'false alarms', 'double allocations', 'lost allocations']
  const good = kills > 0 && (found['acquisitions'] as number) > 0 && (found['Workers terminated'] as number) > 0
  process.exitCode = good && wrong.every((what) => found[what] === 0) ? 0 : 1
}

main().catch((error: unknown) => fail(String(error)))
