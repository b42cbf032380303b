// Random kills of raw processes, without Node: the long version of crates/core/tests/kills, which tells
// how. --kills so many; a million take about half an hour. An interrupt ends it with the next thousand.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { Progress, tell, type Figures } from './fixtures/figures.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string' }, kills: { type: 'string', default: '20000' } } })
const root = join(__dirname, '..', '..')
const cargo = ['run', '--release', '--quiet', '--locked', '-p', 'robust-lock-core', '--example', 'kills', '--', values.kills]

const storm = spawn('cargo', cargo, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
const progress = new Progress('kills', Number(values.kills))
let figures: Figures | undefined
createInterface({ input: storm.stdout }).on('line', (line) => {
  figures = JSON.parse(line) as Figures
  progress.show(figures)
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => storm.kill('SIGINT'))
storm.on('error', (error) => console.log(`kills: FAILED: ${error.message}`))
storm.on('close', (code) => {
  progress.stop()
  if (figures !== undefined) tell('kills', figures)
  process.exitCode = code === 0 && figures !== undefined ? 0 : 1
})
