// `npm run bench` at the root builds the library, installs this package and runs this program.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Command, InvalidArgumentError } from 'commander'
import { Bench } from './bench.mjs'
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

async function measure() {
  const settings = options.quick ? { rounds: 2, sliceMs: 2, quick: true } : { rounds: options.rounds, sliceMs: options.slice, quick: false }
  const bench = new Bench(settings)
  const begun = performance.now()
  process.once('SIGINT', () => {
    bench.end()
    process.exit(130)
  })
  try {
    for (const { name, run } of chapters) {
      if (!options.only.includes(name)) continue
      const since = performance.now()
      await run(bench)
      console.error(`(${name}: ${((performance.now() - since) / 1e3).toFixed(0)} s)\n`)
    }
  } finally {
    bench.end()
  }
  return bench.result({ ...settings, seconds: Math.round((performance.now() - begun) / 1e3) })
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
