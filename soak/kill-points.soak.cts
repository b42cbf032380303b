// Kills processes at every instruction of every operation of the core, one instruction after the other: the
// Rust tests kill_points, kill_points_pool and stop_points, which take a sample of the long ones, without leaving
// any out. `--kills N`: at most so many steps of each; 1000000 is more than any operation has.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { tell } from './fixtures/figures.cjs'

const { values } = parseArgs({ options: { seconds: { type: 'string' }, kills: { type: 'string', default: '20000' } } })
const root = join(__dirname, '..', '..')
const args = ['test', '--locked', '--no-fail-fast', '-p', 'robust-lock-core', '--test', 'kill_points', '--test', 'kill_points_pool', '--test', 'stop_points', '--', '--nocapture']
// A group of its own: an interrupt ends the tests with it, and the figures so far are told.
const child = spawn('cargo', args, { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ROBUST_LOCK_POINTS: values.kills } })

const begun = performance.now()
let [kills, operations, failed, interrupted] = [0, 0, 0, false]
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interrupted = true
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
  })
}
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
  tell('kill-points', { kills, operations, failed, seconds: Math.round((performance.now() - begun) / 1_000) })
  process.exitCode = failed === 0 && kills > 0 && (code === 0 || interrupted) ? 0 : 1
})
