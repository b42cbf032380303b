// `npm run bench` at the root builds the library, installs this package and runs this program.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError } from 'commander'
import { chapters } from './chapters/index.mjs'
import { publish } from './publish.mjs'
import { verdict } from './text.mjs'

const names = chapters.map(({ name }) => name)

const count = (text) => {
  if (!/^[1-9][0-9]{0,3}$/.test(text)) throw new InvalidArgumentError('It must be a number from 1 to 9999.')
  return Number(text)
}
const some = (text) => {
  const wanted = text.split(',')
  const unknown = wanted.find((name) => !names.includes(name))
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no chapter ${unknown}.`)
  return wanted
}
const options = new Command('bench')
  .description('Measures the library against the floor and its peers, interleaved; prints ratios.')
  .option('--only <names>', `some of ${names.join(', ')}, with commas between`, some, names)
  .option('--rounds <n>', 'how many rounds', count, 15)
  .option('--slice <ms>', 'how long a slice of a round is, in ms', count, 50)
  .option('--quick', 'run everything once, shortly: whether it works, no figures')
  .option('--json [file]', 'write the results as JSON, to stdout or a file')
  .option('--publish', 'write results/, and the tables in BENCHMARKS.md and README.md')
  .option('--from <file>', 'measure nothing: take the results of that file')
  .parse()
  .opts()

/** Each chapter is measured in a process of its own: what the compiler has learnt in another one does not matter. */
async function measure() {
  const settings = options.quick ? { rounds: 2, sliceMs: 2, quick: true } : { rounds: options.rounds, sliceMs: options.slice, quick: false }
  const begun = performance.now()
  const parts = []
  for (const { name } of chapters) if (options.only.includes(name)) parts.push(await inProcess(name, settings))
  const [first] = parts
  const missing = parts.flatMap((part) => part.missing).filter((one, i, all) => all.findIndex(({ name }) => name === one.name) === i)
  return { machine: first.machine, settings: { ...settings, seconds: Math.round((performance.now() - begun) / 1e3) }, missing, tables: parts.flatMap(({ tables }) => tables) }
}

async function inProcess(name, settings) {
  const begun = performance.now()
  const child = fork(fileURLToPath(new URL('chapter.mjs', import.meta.url)), [], { stdio: 'inherit', serialization: 'advanced' })
  child.send({ name, settings })
  const [[part], [code, signal]] = await Promise.all([Promise.race([once(child, 'message'), once(child, 'exit').then(() => [])]), once(child, 'exit')])
  if (part === undefined || code !== 0) throw new Error(`chapter ${name} ended with ${signal ?? code}`)
  console.error(`(${name}: ${((performance.now() - begun) / 1e3).toFixed(0)} s)\n`)
  return part
}

const results = options.from === undefined ? await measure() : JSON.parse(readFileSync(options.from, 'utf8'))
const short = (_, value) => (typeof value === 'number' ? Number(value.toPrecision(5)) : value)
// A row of numbers stays in its line.
const json = `${JSON.stringify(results, short, 1).replaceAll(/\[[\s\d.,e+-]+\]/g, (list) => list.replaceAll(/\s+/g, ''))}\n`
if (!options.quick) console.error(verdict(results.tables))
if (options.json === true) process.stdout.write(json)
else if (options.json !== undefined) writeFileSync(options.json, json)
if (options.publish) {
  mkdirSync(new URL('../results/', import.meta.url), { recursive: true })
  writeFileSync(new URL('../results/results.json', import.meta.url), json)
  publish(JSON.parse(json))
}
