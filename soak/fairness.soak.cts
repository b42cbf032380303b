// Fairness in figures: measured, printed, never asserted. Everything that is compared is measured in one
// run, in turns: the rounds repeat until --seconds are over. --only greed,alike,late: some of the parts.
//
// 1. A modest party beside greedy ones, against a plain robust mutex and against no lock (both in Rust:
//    crates/core/examples/fairness.rs), with ours in Rust, lockSync and lock() in Node, and mixtures.
// 2. Equal parties of all kinds: the shares of lockSync and lock(), processes and Workers.
// 3. One of four processes whose event loop is late each time.
import { spawn, spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { openManager } from 'robust-lock'
import { contend, quantile, start, sum, type Contender, type Turns } from './fixtures/parties.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string' }, only: { type: 'string', default: 'greed,alike,late' } } })
const SLICE_S = 2
const root = join(__dirname, '..', '..')
const example = join(root, 'target', 'release', 'examples', 'fairness')
const path = `/dev/shm/robust-lock-soak-fairness-${process.pid}`
process.once('exit', () => rmSync(path, { force: true }))
process.once('SIGINT', () => process.exit(1))
// The second lock's gate is the plain mutex of the example.
const manager = openManager({ path, mode: 'create', capacity: 2 })
manager.allocateLock()
manager.allocateLock()

interface Figures {
  p50: number
  p99: number
  longest: number
  /** Of all parties, per second. */
  rate: number
}

const median = (all: Figures[], of: keyof Figures): number => quantile(all.map((figures) => figures[of]), 0.5)

/** One slice of the Rust program: its children take the lock named `kind`. */
async function inRust(kind: string, greedy: number, hold: number): Promise<Figures> {
  const child = (role: string) => {
    const process = spawn(example, ['child', role, kind, path, String(hold * 1_000), String(SLICE_S)], { stdio: ['pipe', 'pipe', 'inherit'] })
    return { process, lines: createInterface(process.stdout)[Symbol.asyncIterator]() }
  }
  const children = [child('victim'), ...Array.from({ length: greedy }, () => child('greedy'))]
  for (const { lines } of children) await lines.next()
  for (const { process } of children) process.stdin.end('go\n')
  const said = await Promise.all(children.map(async ({ lines }) => String((await lines.next()).value).split(' ').map(Number)))
  const [, p50 = NaN, p99 = NaN, longest = NaN] = said[0] as number[]
  return { p50: p50 / 1e3, p99: p99 / 1e3, longest: longest / 1e3, rate: sum(said.map(([turns = 0]) => turns)) / SLICE_S }
}

function figures(victim: Turns, all: Turns[]): Figures {
  const at = (share: number): number => quantile(victim.waits, share)
  return { p50: at(0.5), p99: at(0.99), longest: at(1), rate: sum(all.map(({ at }) => at.length)) / SLICE_S }
}

async function inNode(victim: Contender['how'], others: Contender['how'], worker: boolean, greedy: number, hold: number): Promise<Figures> {
  const modest = await start(worker ? 'worker' : 'process', { path, how: victim, hold: 0.02, pause: 2, late: 0 })
  const rest = await Promise.all(Array.from({ length: greedy }, () => start('process', { path, how: others, hold, pause: 0, late: 0 })))
  const turns = await contend([modest, ...rest], SLICE_S)
  return figures(turns[0] as Turns, turns)
}

type Run = (greedy: number, hold: number) => Promise<Figures>
const kinds: [string, Run][] = [
  ['no lock', (greedy, hold) => inRust('none', greedy, hold)],
  ['plain', (greedy, hold) => inRust('plain', greedy, hold)],
  ['ours, Rust', (greedy, hold) => inRust('ours', greedy, hold)],
  ['lockSync', (greedy, hold) => inNode('sync', 'sync', false, greedy, hold)],
  ['lock()', (greedy, hold) => inNode('async', 'async', false, greedy, hold)],
  ['lock() beside lockSync', (greedy, hold) => inNode('async', 'sync', false, greedy, hold)],
  ['lockSync beside lock()', (greedy, hold) => inNode('sync', 'async', false, greedy, hold)],
  ['Worker, lock()', (greedy, hold) => inNode('async', 'async', true, greedy, hold)],
]

function table(head: string[]): InstanceType<typeof Table> {
  return new Table({ head, style: { head: [], border: [] }, colAligns: ['left', ...head.slice(1).map(() => 'right' as const)] })
}

const cells = [[3, 0.02], [3, 1], [7, 0.02], [7, 1]] as const
const measured = cells.map(() => kinds.map((): Figures[] => []))

async function greed(): Promise<void> {
  for (const [c, [greedy, hold]] of cells.entries()) {
    for (const [k, [, run]] of kinds.entries()) measured[c]?.[k]?.push(await run(greedy, hold))
  }
}

function tellGreed(): void {
  for (const [c, [greedy, hold]] of cells.entries()) {
    const out = table([`one beside ${greedy}, holds of ${hold} ms`, 'p50 ms', 'p99 ms', 'longest', 'turns/s', 'p99/plain', 'turns/plain'])
    const plain = measured[c]?.[1] as Figures[]
    for (const [k, [name]] of kinds.entries()) {
      const mine = measured[c]?.[k] as Figures[]
      const [p99, rate] = [median(mine, 'p99'), median(mine, 'rate')]
      out.push([name, median(mine, 'p50').toFixed(3), p99.toFixed(2), median(mine, 'longest').toFixed(1), rate.toFixed(0), (p99 / median(plain, 'p99')).toFixed(3), (rate / median(plain, 'rate')).toFixed(2)])
    }
    console.log(out.toString())
  }
}

const equals = [['process', 'sync'], ['process', 'async'], ['worker', 'sync'], ['worker', 'async']] as const
const shares = [0.02, 1].map(() => equals.map((): number[] => []))

async function alike(): Promise<void> {
  for (const [h, hold] of [0.02, 1].entries()) {
    const parties = await Promise.all(equals.map(([kind, how]) => start(kind, { path, how, hold, pause: 0, late: 0 })))
    const turns = await contend(parties, SLICE_S)
    const all = sum(turns.map(({ at }) => at.length))
    for (const [i, { at }] of turns.entries()) shares[h]?.[i]?.push(at.length / all)
  }
}

function tellAlike(): void {
  const out = table(['shares of four greedy parties', ...equals.map(([kind, how]) => `${kind}, ${how === 'sync' ? 'lockSync' : 'lock()'}`)])
  for (const [h, hold] of [0.02, 1].entries()) out.push([`holds of ${hold} ms`, ...(shares[h] as number[][]).map((share) => quantile(share, 0.5).toFixed(3))])
  console.log(out.toString())
}

interface Lateness {
  rate: number
  p99: number
  /** Between two turns of the late one. */
  gap: number
  longestGap: number
}
const latenesses = [0, 20, 200]
const lateness = [0.02, 1].map(() => latenesses.map((): Lateness[] => []))

async function late(): Promise<void> {
  for (const [h, hold] of [0.02, 1].entries()) {
    for (const [l, ms] of latenesses.entries()) {
      const parties = await Promise.all([ms, 0, 0, 0].map((late) => start('process', { path, how: 'async', hold, pause: 0, late })))
      const turns = await contend(parties, SLICE_S)
      const [mine, ...others] = turns as [Turns, ...Turns[]]
      const gaps = mine.at.slice(1).map((at, i) => at - (mine.at[i] as number))
      lateness[h]?.[l]?.push({
        rate: sum(turns.map(({ at }) => at.length)) / SLICE_S,
        p99: quantile(others.flatMap(({ waits }) => [...waits]), 0.99),
        gap: quantile(gaps, 0.5),
        longestGap: quantile(gaps, 1),
      })
    }
  }
}

function tellLate(): void {
  const out = table(['one of four is late each time', 'turns/s of all', '/ prompt', "others' p99 ms", '/ prompt', 'its turn each (ms)', 'longest'])
  const middle = (all: Lateness[], of: keyof Lateness): number => quantile(all.map((one) => one[of]), 0.5)
  for (const [h, hold] of [0.02, 1].entries()) {
    const prompt = lateness[h]?.[0] as Lateness[]
    for (const [l, ms] of latenesses.entries()) {
      const mine = lateness[h]?.[l] as Lateness[]
      const [rate, p99] = [middle(mine, 'rate'), middle(mine, 'p99')]
      out.push([`${ms} ms, holds of ${hold} ms`, rate.toFixed(0), (rate / middle(prompt, 'rate')).toFixed(2), p99.toFixed(2), (p99 / middle(prompt, 'p99')).toFixed(2), middle(mine, 'gap').toFixed(1), middle(mine, 'longestGap').toFixed(1)])
    }
  }
  console.log(out.toString())
}

async function main(): Promise<void> {
  const built = spawnSync('cargo', ['build', '--quiet', '--release', '--locked', '-p', 'robust-lock-core', '--example', 'fairness'], { cwd: root, stdio: 'inherit' })
  if (built.status !== 0) process.exit(1)
  const end = performance.now() + Number(values.seconds) * 1_000
  let rounds = 0
  do {
    if (values.only.includes('greed')) await greed()
    if (values.only.includes('alike')) await alike()
    if (values.only.includes('late')) await late()
    rounds++
  } while (performance.now() < end)
  console.log(`fairness: Node ${process.version}, medians of ${rounds} rounds of ${SLICE_S} s each`)
  if (values.only.includes('greed')) tellGreed()
  if (values.only.includes('alike')) tellAlike()
  if (values.only.includes('late')) tellLate()
  process.exit(0)
}

void main()
