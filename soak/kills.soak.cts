// Random kills of raw processes, without Node: the long version of crates/core/tests/kills, which tells
// how. --kills so many; a million take about half an hour. An interrupt, or the end of --seconds, ends it with the
// next thousand.
import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { after } from './fixtures/cut-off.cjs'
import { Progress, tell, type Figures } from './fixtures/figures.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '1000000' }, kills: { type: 'string', default: '20000' } } })
const root = join(__dirname, '..', '..')
const built = spawnSync('cargo', ['build', '--release', '--quiet', '--locked', '-p', 'robust-lock-core', '--example', 'kills'], { cwd: root, stdio: 'inherit' })
if (built.status !== 0) process.exit(1)

const storm = spawn(join(root, 'target', 'release', 'examples', 'kills'), [values.kills], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
const progress = new Progress('kills', Number(values.kills))
let figures: Figures | undefined
createInterface({ input: storm.stdout }).on('line', (line) => {
  figures = JSON.parse(line) as Figures
  progress.show(figures)
})
const interrupt = (): boolean => storm.kill('SIGINT')
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt)
const limit = after(Number(values.seconds), interrupt)
storm.on('error', (error) => console.log(`kills: FAILED: ${error.message}`))
storm.on('close', (code) => {
  progress.stop()
  clearTimeout(limit)
  if (figures !== undefined) tell('kills', figures)
  process.exitCode = code === 0 && figures !== undefined ? 0 : 1
})
