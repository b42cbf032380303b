// A waiter that stands first at the gate is stopped: by SIGSTOP, by a freezer, one or two at two times.
// Figures: the gap that the others see, their throughput and shares afterwards, and how many rounds it
// takes until the one that is continued has its turn; without a lock, until it runs at all (beside others that
// never wait). And how long anybody waits beside long holds. Measured and printed, never asserted; what fails is a stop after which nobody gets on. --only TEXT: the
// cases with that text in their names.
import { rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { openManager } from 'robust-lock'
import { freezers, sigstop, stopFirst, type Brake } from '../__test__/fixtures/brakes.cjs'
import { until } from '../__test__/fixtures/within.cjs'
import { contend, nowMs, quantile, sleep, start, type Contender, type Party, type Turns } from './fixtures/parties.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string' }, only: { type: 'string', default: '' } } })
const path = `/dev/shm/robust-lock-soak-stopped-${process.pid}`
process.once('exit', () => rmSync(path, { force: true }))
process.once('SIGINT', () => process.exit(1))
openManager({ path, mode: 'create', capacity: 1 }).allocateLock()

const STOPPED_MS = 1_500
/** A few rounds of 100 ms. */
const STOPPED_LONG_MS = 5_000

interface Episode {
  stopped: number[]
  from: number
  to: number
}

interface Case {
  hold: number
  count: number
  how: Contender['how']
  brake: Brake
  two: boolean
}

interface Outcome {
  gap: number
  throughput: number
  /** The least share of the others, over the largest. */
  evenness: number
  /** Until the last of the continued has its turn: acquisitions of each other one. */
  rounds: number
  /** The same in turns: who comes straight back within a quantum counts once. Without a lock there are none. */
  turns: number
}

const names = { sync: 'lockSync', async: 'lock()', none: 'no lock', mixed: 'mixed' }
const outcomes = new Map<string, Outcome[]>()
const longestWaits = new Map<string, number[]>()
let stuck = 0

function judge(name: string, { how }: Case, turns: Turns[], { stopped, from, to }: Episode): void {
  const between = (at: Float64Array, a: number, b: number): number => at.filter((t) => t >= a && t < b).length
  const others = turns.filter((_, i) => !stopped.includes(i))
  const all = others.flatMap(({ at }) => [...at].filter((t) => t > from - 1_000 && t < to)).toSorted((a, b) => a - b)
  const last = all.findLast((t) => t < from) ?? from
  const after = [last, ...all.filter((t) => t >= from), to]
  let [gap, gapEnd] = [0, from]
  for (let i = 1; i < after.length; i++) {
    const wide = (after[i] as number) - (after[i - 1] as number)
    if (wide > gap) [gap, gapEnd] = [wide, after[i] as number]
  }
  if (after.length === 2) stuck++
  const before = turns.reduce((n, { at }) => n + between(at, from - 1_000, from), 0)
  const counts = others.map(({ at }) => between(at, gapEnd, to))
  const served = Math.max(...stopped.map((i) => turns[i]?.at.find((t) => t > to) ?? Infinity))
  const meanwhile = turns
    .flatMap(({ at }, i) => [...at].filter((t) => t >= to && t < served).map((t) => ({ t, i, other: !stopped.includes(i) })))
    .toSorted((a, b) => a.t - b.t)
  const list = outcomes.get(name) ?? []
  outcomes.set(name, list)
  list.push({
    gap,
    throughput: (counts.reduce((a, b) => a + b, 0) / (to - gapEnd)) * (1_000 / before),
    evenness: Math.min(...counts) / Math.max(...counts),
    rounds: meanwhile.filter(({ other }) => other).length / others.length,
    turns: how === 'none' ? NaN : meanwhile.filter(({ i, other }, n) => other && i !== meanwhile[n - 1]?.i).length / others.length,
  })
}

/** Stops one that stands first; without a lock, one that runs. */
async function stopOne(parties: Party[], { how, brake }: Case, but?: Party): Promise<Party> {
  if (how !== 'none') return await stopFirst(parties, path, 0, brake, but)
  const found = parties.find((one) => one !== but) as Party
  brake.stop(found.pid)
  await until('the stop', () => brake.isStopped(found.pid))
  return found
}

async function run(one: Case): Promise<void> {
  const { hold, count, how, brake, two } = one
  const name = `${count} × ${hold} ms, ${names[how]}, ${brake.name}${two ? ', two' : ''}`
  if (!name.includes(values.only)) return
  const ms = hold < 100 ? STOPPED_MS : STOPPED_LONG_MS
  const parties = await Promise.all(Array.from({ length: count }, () => start('process', { path, how, hold, pause: 0, late: 0 })))
  const episodes: Episode[] = []
  const turns = await contend(parties, 1 + 3 * (ms / 1_000 + 1.5 + (two ? 0.5 : 0)), async () => {
    for (let i = 0; i < 3; i++) {
      await sleep(1_000)
      const victims = [await stopOne(parties, one)]
      if (two) {
        await sleep(500)
        victims.push(await stopOne(parties, one, victims[0]))
      }
      const from = nowMs()
      await sleep(ms)
      const to = nowMs()
      for (const { pid } of victims) brake.goOn(pid)
      episodes.push({ stopped: victims.map((victim) => parties.indexOf(victim)), from, to })
    }
  })
  for (const episode of episodes) judge(name, one, turns, episode)
}

/** Nobody is stopped: how many rounds anybody waits at most. */
async function calm(how: Contender['how'] | 'mixed'): Promise<void> {
  const [count, hold] = [8, 100]
  const name = `${count} × ${hold} ms, ${names[how]}, calm`
  if (!name.includes(values.only)) return
  const kinds = Array.from({ length: count }, (_, i) => (how !== 'mixed' ? how : i % 2 === 0 ? 'sync' : 'async'))
  const parties = await Promise.all(kinds.map((how) => start('process', { path, how, hold, pause: 0, late: 0 })))
  const turns = await contend(parties, 12)
  const rounds = turns.map(({ waits }) => quantile(waits, 1) / (count * hold))
  longestWaits.set(name, [...(longestWaits.get(name) ?? []), Math.max(...rounds)])
}

function tell(): void {
  const out = new Table({
    head: ['stopped while first', 'stops', 'gap ms', 'longest', 'turns/s, × before', 'least/most', 'rounds to its turn', 'most', 'in turns', 'most'],
    style: { head: [], border: [] },
    colAligns: ['left', ...Array<'right'>(9).fill('right')],
  })
  for (const [name, all] of outcomes) {
    const of = (what: keyof Outcome, share: number): string => quantile(all.map((one) => one[what]), share).toFixed(2).replace('NaN', '')
    out.push([name, all.length, of('gap', 0.5), of('gap', 1), of('throughput', 0.5), of('evenness', 0.5), of('rounds', 0.5), of('rounds', 1), of('turns', 0.5), of('turns', 1)])
  }
  console.log(out.toString())
  for (const [name, rounds] of longestWaits) console.log(`${name}: nobody waits longer than ${Math.max(...rounds).toFixed(2)} rounds`)
}

async function main(): Promise<void> {
  const brakes: Brake[] = []
  for (const brake of freezers()) {
    if (typeof brake === 'string') console.log(`not run: ${brake}`)
    else brakes.push(brake)
  }
  const cases: Case[] = []
  for (const how of ['sync', 'async'] as const) {
    for (const [count, hold] of [[4, 0.02], [4, 1], [8, 10], [8, 100]] as const) cases.push({ hold, count, how, brake: sigstop, two: false })
    for (const brake of brakes) cases.push({ hold: 1, count: 4, how, brake, two: false })
    for (const hold of [0.02, 1]) cases.push({ hold, count: 5, how, brake: sigstop, two: true })
  }
  // How long the machine alone takes until who is continued runs again.
  for (const two of [false, true]) cases.push({ hold: 0.02, count: two ? 5 : 4, how: 'none', brake: sigstop, two })
  const end = performance.now() + Number(values.seconds) * 1_000
  do {
    for (const one of cases) await run(one)
    for (const how of ['sync', 'async', 'mixed'] as const) await calm(how)
  } while (performance.now() < end)
  tell()
  console.log(`stopped: Node ${process.version}, ${[...outcomes.values()].flat().length} stops, ${stuck} after which nobody got on`)
  process.exit(stuck === 0 ? 0 : 1)
}

void main()
