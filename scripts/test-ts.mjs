// Runs the suites in build/__test__, two at a time, each in a process of its own.
//
//   node scripts/test-ts.mjs [part of a suite's name ...]
//
// NODE_BINARY names another node to run them with; ROBUST_LOCK_TEST_PATIENCE says how many times as long
// as usual anything may take, on an emulated machine; ROBUST_LOCK_TEST_ONLY the title of the one test to
// run. The last line is "N passed, N failed".
import { spawn } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const patience = Number(process.env.ROBUST_LOCK_TEST_PATIENCE || 1)
const LIMIT_MS = 300_000 * patience
/** How long a suite may stay after its last word: longer, and something keeps it that should not. */
const LINGER_MS = 20_000 * patience
const AT_A_TIME = 2
/** A 32-bit process has room for six segments or so: there several processes share a suite's tests. */
const PARTS = process.arch === 'arm' ? 16 : 1
const node = process.env.NODE_BINARY || process.execPath
const folder = fileURLToPath(new URL('../build/__test__/', import.meta.url))
const wanted = process.argv.slice(2)
const running = new Set()

/** A suite's process leads a group of its own, so that what it started goes with it. */
function stop(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

/** What a suite that was killed could not remove. */
function sweep(pid) {
  for (const name of readdirSync('/dev/shm')) {
    if (name.startsWith(`robust-lock-test-${pid}-`)) rmSync(`/dev/shm/${name}`, { recursive: true, force: true })
  }
}

function run({ file, part }) {
  return new Promise((resolve) => {
    const begun = performance.now()
    const env = { ...process.env, ROBUST_LOCK_TEST_PART: part, NO_COLOR: '1', FORCE_COLOR: undefined, NODE_NO_WARNINGS: undefined }
    const child = spawn(node, [folder + file], { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env })
    running.add(child)
    let output = ''
    let hung = ''
    let limit
    const setLimit = (ms, verdict) => {
      clearTimeout(limit)
      limit = setTimeout(() => {
        hung = verdict
        stop(child)
      }, ms)
    }
    setLimit(LIMIT_MS, `hung for ${LIMIT_MS / 1000} s`)
    const keep = (text) => {
      output += text
      if (/^  Duration: /m.test(text)) setLimit(LINGER_MS, 'did not end after its last test')
    }
    child.stdout.setEncoding('utf8').on('data', keep)
    child.stderr.setEncoding('utf8').on('data', keep)
    child.on('error', (error) => keep(error.message))
    child.on('close', (code, signal) => {
      clearTimeout(limit)
      running.delete(child)
      if (child.pid !== undefined) {
        stop(child)
        sweep(child.pid)
      }
      const count = (what) => Number(new RegExp(`^  ${what}: +(\\d+)$`, 'm').exec(output)?.[1] ?? 0)
      const passed = count('Passed')
      let failed = count('Total') + count('Skipped') - passed
      // A suite that says that all is well, or nothing, and ends badly, has one more failure.
      const bad = hung || (signal ?? (code === 0 ? '' : `code ${code}`))
      const none = passed === 0 && !(PARTS > 1 && /^  Total: +0$/m.test(output))
      if ((bad !== '' || none) && failed === 0) failed = 1
      resolve({ name: file.replace('.test.cjs', '') + (PARTS > 1 ? ` ${part}` : ''), passed, failed, bad, output, seconds: (performance.now() - begun) / 1000 })
    })
  })
}

let passed = 0
let failed = 0

function report(result) {
  passed += result.passed
  failed += result.failed
  const verdict = result.failed === 0 ? '' : `  ${result.failed} FAILED ${result.bad}`
  console.log(`${result.name.padEnd(20)} ${String(result.passed).padStart(3)} passed  ${result.seconds.toFixed(1).padStart(5)} s${verdict}`)
  if (result.failed > 0) console.log(result.output)
  else for (const line of result.output.match(/^not run: .*$/gm) ?? []) console.log(`  ${line}`)
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    for (const child of running) stop(child)
    process.exit(1)
  })
}

const files = readdirSync(folder)
  .filter((file) => file.endsWith('.test.cjs'))
  .filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)))
  .toSorted()
const jobs = files.flatMap((file) => Array.from({ length: PARTS }, (_, part) => ({ file, part: `${part}/${PARTS}` })))
async function work() {
  for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) report(await run(job))
}
await Promise.all(Array.from({ length: AT_A_TIME }, work))
if (passed + failed === 0) failed = 1
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
