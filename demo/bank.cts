// The main job: a bank whose workers are killed all the time, and whose books balance.
import { fork, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { SingleBar } from 'cli-progress'
import Table from 'cli-table3'
import { Command, InvalidArgumentError } from 'commander'
import { openManager } from 'robust-lock'
import { Bank, Ledger, type Statistics } from './ledger.cjs'

const BALANCE = 1_000

/** How it ends: 1 is kept for books that do not balance. */
const CANNOT_RUN = 2

function count(least: number, most: number) {
  return (text: string): number => {
    const value = Number(text)
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`)
    }
    return value
  }
}

const options = new Command('demo')
  .description('Worker processes move money under locks while they are killed; the total must stay what it was.')
  .option('--seconds <n>', 'how long', count(1, 86_400), 10)
  .option('--workers <n>', 'how many processes', count(1, 64), 4)
  .option('--accounts <n>', 'how many accounts', count(2, 2_048), 16)
  .option('--kill-every <ms>', 'the mean time between two kills', count(1, 3_600_000), 100)
  .option('--no-lock', 'the same without locks, to see what they are for')
  .exitOverride((end) => process.exit(end.exitCode === 0 ? 0 : CANNOT_RUN))
  .parse()
  .opts<{ seconds: number; workers: number; accounts: number; killEvery: number; lock: boolean }>()

const workers: ChildProcess[] = []
/** Those that are at work, not on their way there. */
const atWork = new Set<number>()
let kills = 0
let closing = false
/** Gives the terminal back. */
let endLine = (): void => {}
const segment = `/dev/shm/robust-lock-demo-${process.pid}`
let folder: string | undefined

// However it ends, short of SIGKILL, it leaves nothing behind.
process.once('exit', () => {
  closing = true
  endLine()
  for (const worker of workers) worker.kill('SIGKILL')
  rmSync(segment, { force: true })
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(128 + constants.signals[signal]))
}
// Nobody reads it any more (`npm run demo | head`).
process.stdout.once('error', () => process.exit(CANNOT_RUN))
process.once('uncaughtException', (error) => {
  endLine()
  console.error(error)
  process.exit(CANNOT_RUN)
})

folder = mkdtempSync(join(tmpdir(), 'robust-lock-demo-'))
const file = join(folder, 'bank')
const manager = openManager({ path: segment, mode: 'create', capacity: options.accounts })
Ledger.create(file, Array.from({ length: options.accounts }, () => manager.allocateLock().id), BALANCE, options.workers + 1)
const ledger = new Ledger(file)
const before = ledger.total()

function start(place: number): Promise<void> {
  const how = options.lock ? (place % 2 === 0 ? 'sync' : 'async') : 'none'
  const worker = fork(join(__dirname, 'teller.cjs'), [file, segment, String(place), how])
  workers[place] = worker
  return new Promise((resolve, reject) => {
    worker.once('message', () => {
      atWork.add(place)
      resolve()
    })
    worker.once('error', reject)
    worker.once('exit', (code, signal) => {
      // A Ctrl-C reaches the workers, too, and they may be faster.
      if (signal === 'SIGKILL' || signal === 'SIGINT' || closing) resolve()
      else reject(new Error(`a worker ended by itself: ${signal ?? code}`))
    })
  })
}

async function kill(place: number): Promise<void> {
  atWork.delete(place)
  const worker = workers[place] as ChildProcess
  const gone = new Promise((resolve) => worker.once('exit', resolve))
  if (!worker.kill('SIGKILL')) return
  kills++
  await gone
}

function statistics(): Statistics {
  const sum = { transfers: 0, deaths: 0, repairs: 0 }
  for (let place = 0; place <= options.workers; place++) {
    const one = ledger.statistics(place)
    sum.transfers += one.transfers
    sum.deaths += one.deaths
    sum.repairs += one.repairs
  }
  return sum
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** A line that is drawn over and over on a terminal, one a second where it is read later. */
function progress(): { show(seconds: number): void; stop(): void } {
  const line = (): string => {
    const { transfers, deaths, repairs } = statistics()
    return `${transfers} transfers, ${kills} kills, ${deaths} owner deaths seen, ${repairs} repairs`
  }
  if (!process.stdout.isTTY) {
    let next = 1
    return {
      show(seconds) {
        if (seconds < next) return
        next = Math.floor(seconds) + 1
        console.log(`${String(Math.floor(seconds)).padStart(3)} s  ${line()}`)
      },
      stop() {},
    }
  }
  const bar = new SingleBar({ format: '{bar} {value}/{total} s  {line}', hideCursor: true, barsize: 20 })
  bar.start(options.seconds, 0, { line: '' })
  endLine = () => bar.stop()
  return {
    show: (seconds) => bar.update(Math.min(Math.floor(seconds), options.seconds), { line: line() }),
    stop() {
      bar.stop()
      endLine = () => {}
    },
  }
}

async function killAtRandom(end: number): Promise<void> {
  while (performance.now() < end) {
    // Exponential: a kill is as likely at any instant.
    await sleep(Math.min(-Math.log(1 - Math.random()) * options.killEvery, end - performance.now()))
    if (performance.now() >= end) return
    const place = [...atWork][Math.floor(Math.random() * atWork.size)]
    if (place === undefined) continue
    await kill(place)
    void start(place)
  }
}

async function main(): Promise<number> {
  await Promise.all(Array.from({ length: options.workers }, (_, place) => start(place)))
  const begun = performance.now()
  const line = progress()
  const showing = setInterval(() => line.show((performance.now() - begun) / 1000), 100)
  try {
    await killAtRandom(begun + options.seconds * 1000)
  } finally {
    clearInterval(showing)
  }
  const seconds = (performance.now() - begun) / 1000
  line.show(seconds)
  line.stop()
  closing = true
  await Promise.all(workers.map((_, place) => kill(place)))
  if (options.lock) {
    // What the last ones have left half done.
    const bank = new Bank(ledger, manager, options.workers, (locker) => locker.lockSync())
    for (let account = 0; account < ledger.accounts; account++) {
      const guard = manager.retrieveLock(ledger.lockId(account)).lockSync()
      const { ownerDied } = guard
      guard.unlock()
      if (ownerDied) {
        ledger.count(options.workers, 'deaths')
        await bank.repair(account)
      }
    }
  }
  const { transfers, deaths, repairs } = statistics()
  const after = ledger.total()
  const table = new Table({ colAligns: ['left', 'right'], style: { head: [], border: [] } })
  table.push(
    ['transfers', transfers],
    ['kills', kills],
    ['owner deaths seen', deaths],
    ['repairs', repairs],
    ['time', `${seconds.toFixed(1)} s`],
    ['total before', before],
    ['total after', after],
    ['check', after === before ? 'the books balance' : `WRONG by ${after - before}`],
  )
  console.log(table.toString())
  return after === before ? 0 : 1
}

void main().then((code) => (process.exitCode = code))
