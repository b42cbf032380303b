// Crews: processes in C and in Node that contend for one lock when they are told to.
import { execFileSync, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { openManager } from '../../dist/index.cjs'
import { BUCKETS, quantile } from './histogram.mjs'

/** Time for every process of a crew to have read its line. */
const HEAD_START_NS = 20e6
const WARM_UP_MS = 1_000

export const monotonic = () => Number(process.hrtime.bigint())
export const program = (name) => fileURLToPath(new URL(name, import.meta.url))

/** How the tables call them. */
export const TITLES = {
  none: 'C, no lock',
  plain: 'C, plain',
  gate: 'C, with a gate',
  'bare/sync': 'C with a gate, behind Node-API',
  'robust-lock/sync': 'robust-lock, `lockSync`',
  'robust-lock/async': 'robust-lock, `lock`',
  'lmdb/sync': 'lmdb, `transactionSync`',
  'fs-ext/sync': 'fs-ext, `flockSync`',
  'fs-ext/async': 'fs-ext, `flock`',
  'fs-native-extensions/sync': 'fs-native-extensions, `waitForLockSync`',
  'fs-native-extensions/async': 'fs-native-extensions, `waitForLock`',
  'better-sqlite3/sync': 'better-sqlite3, `BEGIN IMMEDIATE`',
  'proper-lockfile/async': 'proper-lockfile, `lock`',
}

function makeGround(bench) {
  const [page, segment] = [bench.segment('page'), bench.segment('contended')]
  writeFileSync(page, Buffer.alloc(4096))
  openManager({ path: segment, capacity: 1 })
  const [crew, shared] = [bench.compile('crew'), bench.compile('shared', { module: true })]
  execFileSync(crew, ['init', page])
  /** In the order of worker.mjs and holder.mjs. */
  const args = [`${bench.folder}/shared.node`, page, String(process.pid), bench.memory, segment]
  return { bench, crew, page, args, cells: new Int32Array(shared.map(page)) }
}

const grounds = new WeakMap()

/** What the processes of a run have in common: made once. */
export function groundOf(bench) {
  if (!grounds.has(bench)) grounds.set(bench, makeGround(bench))
  return grounds.get(bench)
}

/** A child that is told things in lines, and answers in lines. */
export class Member {
  constructor(command, args) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.child.stdin.on('error', () => {})
    this.gone = new Promise((resolve) => this.child.once('close', resolve))
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]()
  }

  tell(line) {
    this.child.stdin.write(`${line}\n`)
  }

  async answer() {
    const { value, done } = await this.lines.next()
    if (done) throw new Error(`a process has ended: ${this.child.spawnargs.join(' ')}`)
    return value
  }

  async end() {
    this.child.kill('SIGKILL')
    await this.gone
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0)

/** What the waits of some processes come to, in ns. */
function waitsOf(answers) {
  const counts = Array.from({ length: BUCKETS }, () => 0)
  for (const answer of answers) for (const [i, count] of answer.counts.entries()) counts[i] += count
  return { p50: quantile(counts, 0.5), p99: quantile(counts, 0.99), longest: Math.max(...answers.map(({ longest }) => longest)) }
}

export class Crew {
  static async start(ground, size, command, args) {
    const crew = new Crew()
    crew.cells = ground.cells
    crew.members = Array.from({ length: size }, () => new Member(command, args))
    try {
      const [{ names, absent }] = await Promise.all(crew.members.map(async (member) => JSON.parse(await member.answer())))
      crew.names = names
      for (const [name, reason] of absent) ground.bench.absent(name, reason)
    } catch (error) {
      await crew.end()
      throw error
    }
    return crew
  }

  static inNode(ground, size) {
    return Crew.start(ground, size, process.execPath, [program('worker.mjs'), ...ground.args])
  }

  static inC(ground, size) {
    return Crew.start(ground, size, ground.crew, ['contend', ground.page, String(process.pid)])
  }

  /**
   * One slice: as many processes as there are plans contend, each by its own `{ hold, pause, late }` in ns. The
   * waits are those of the first `watched` of them, `others` the p99 of the rest; what is left are figures of all.
   */
  async contend(name, plans, ms, watched = plans.length) {
    this.cells[0] = 0
    const begin = monotonic() + HEAD_START_NS
    const answers = await Promise.all(
      plans.map(async ({ hold, pause = 0, late = 0 }, i) => {
        this.members[i].tell(`contend ${name} ${begin} ${begin + ms * 1e6} ${hold} ${pause} ${late}`)
        const [held, inTime, longest, ...counts] = (await this.members[i].answer()).split(' ').map(Number)
        return { held, inTime, longest, counts }
      }),
    )
    const turns = answers.map(({ inTime }) => inTime)
    return {
      ...waitsOf(answers.slice(0, watched)),
      others: watched < answers.length ? waitsOf(answers.slice(watched)).p99 : NaN,
      rate: sum(turns) / (ms / 1e3),
      /** The least served one's part of an even share. */
      least: (Math.min(...turns) * turns.length) / sum(turns),
      /** Sections in which somebody else was, too. */
      shared: sum(answers.map(({ held }) => held)) - this.cells[0],
    }
  }

  /** Each contestant, unmeasured: meanwhile V8's compiler, on threads of its own, wants the processors too. */
  async warmUp() {
    for (const name of this.names) await this.contend(name, this.members.map(() => ({ hold: 20e3 })), WARM_UP_MS)
  }

  async end() {
    await Promise.all(this.members.map((member) => member.end()))
  }
}

/** Both crews, for as long as `use` takes. */
export async function withCrews(bench, size, use) {
  const ground = groundOf(bench)
  const crews = []
  try {
    crews.push(await Crew.inC(ground, size))
    crews.push(await Crew.inNode(ground, size))
    if (!bench.quick) await crews[1].warmUp()
    return await use(crews)
  } finally {
    for (const crew of crews) await crew.end()
  }
}

/** A row of a table, out of a contestant's slices. A lock that has let two in is marked. */
export function rowOf(name, slices) {
  const shared = sum(slices.map((slice) => slice.shared))
  const mark = shared === 0 || name === 'none' ? '' : ` (**${shared.toLocaleString('en')} times two were inside**)`
  const figure = (of) => slices.map((slice) => slice[of])
  return {
    key: name,
    title: `${TITLES[name]}${mark}`,
    figures: { 'acquisitions/s': figure('rate'), p50: figure('p50'), p99: figure('p99'), longest: figure('longest'), 'least share': figure('least') },
  }
}

export const FIGURES = { 'acquisitions/s': '/s', p50: 'ns', p99: 'ns', longest: 'ns', 'least share': 'count' }
