// Kills processes at every instruction of every operation of the core, one instruction after the other: the
// Rust tests kill_points, kill_points_pool, kill_points_open and stop_points, which take a sample of the long ones,
// without leaving any out. `--kills N`: at most so many steps of each; 1000000 is more than any operation has.
// All of it takes days. `--part 3/16`: of each operation the third instruction, and each sixteenth from there on;
// sixteen runs, on one machine or on many, are the whole. `--only create`: the tests with that in their names.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { after, leftovers } from './fixtures/cut-off.cjs'
import { tell } from './fixtures/figures.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '1000000' }, kills: { type: 'string', default: '1000000' }, part: { type: 'string', default: '1/1' }, only: { type: 'string', default: '' } } })
const root = join(__dirname, '..', '..')
const programs = ['kill_points', 'kill_points_pool', 'kill_points_open', 'stop_points'].flatMap((name) => ['--test', name])
const args = ['test', '--locked', '--no-fail-fast', '-p', 'robust-lock-core', ...programs, '--', '--nocapture', values.only]
// A group of its own: an interrupt ends the tests with it, and the figures so far are told.
const child = spawn('cargo', args, { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ROBUST_LOCK_POINTS: values.kills, ROBUST_LOCK_PART: values.part } })

const begun = performance.now()
const sweep = leftovers()
let [kills, operations, failed, interrupted] = [0, 0, 0, false]
function interrupt(): void {
  interrupted = true
  if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, interrupt)
const limit = after(Number(values.seconds), interrupt)
createInterface(child.stdout).on('line', (line) => {
  const done = /: (\d+) kills, /.exec(line)
  if (done !== null) {
    kills += Number(done[1])
    operations++
  }
  if (line.endsWith(' FAILED')) failed++
  if (line !== '') console.log(line)
})
child.on('error', (error) => console.log(`kill-points: FAILED: ${error.message}`))
child.on('close', (code) => {
  clearTimeout(limit)
  void sweep()
  tell('kill-points', { kills, operations, failed, seconds: Math.round((performance.now() - begun) / 1_000) })
  process.exitCode = failed === 0 && (interrupted || (kills > 0 && code === 0)) ? 0 : 1
})
