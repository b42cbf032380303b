// `npm run bench` at the root builds the library, installs this package and runs this program.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createRequire } from 'node:module'
import { Command, InvalidArgumentError } from 'commander'
import { death } from './death.mjs'
import { pairs } from './pairs.mjs'
import { pool } from './pool.mjs'

const ALL = ['pairs', 'pool', 'death']

const count = (text) => {
  if (!/^[1-9][0-9]{0,3}$/.test(text)) throw new InvalidArgumentError('It must be a number from 1 to 9999.')
  return Number(text)
}
const options = new Command('bench')
  .description('Measures the library against the floor and its peers, interleaved; prints ratios.')
  .option('--only <names>', `some of ${ALL.join(', ')}, with commas between`, (text) => text.split(','), ALL)
  .option('--rounds <n>', 'how many rounds', count, 15)
  .option('--slice <ms>', 'how long a slice of a round is', count, 50)
  .parse()
  .opts()

const folder = mkdtempSync(join(tmpdir(), 'robust-lock-benchmark-'))
try {
  const headers = createRequire(import.meta.url).resolve('node-api-headers/include/node_api.h')
  const floor = join(folder, 'floor.node')
  execFileSync('cc', ['-O2', '-shared', '-fPIC', '-pthread', '-I', dirname(headers), '-o', floor, new URL('floor.c', import.meta.url).pathname])
  console.log(`Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model}`)
  const settings = { rounds: options.rounds, sliceMs: options.slice }
  if (options.only.includes('pairs')) await pairs(folder, floor, settings)
  if (options.only.includes('pool')) await pool(settings)
  if (options.only.includes('death')) await death(settings)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
