// Breaks a copy of the project in known ways, and shows that a named test fails for each. A mutation that
// survives is a missing test; one that no longer applies has lost its place in the code.
//
//   node scripts/mutations.mjs [part of a name ...]
//   node scripts/mutations.mjs --places      only whether each has its place in the code, and its test
//
// Those of the facade need one `npm run build` before.
import { spawnSync } from 'node:child_process'
import { closeSync, cpSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isOfFacade, misplaced, mutations } from './mutations/index.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const wanted = process.argv.slice(2)
if (wanted[0] === '--places') {
  const wrong = mutations.flatMap((mutation) => { const why = misplaced(mutation); return why === undefined ? [] : [`mutation "${mutation[0]}": ${why}`] })
  if (wrong.length > 0) console.error(wrong.join('\n'))
  process.exit(wrong.length > 0 ? 1 : 0)
}
const copy = mkdtempSync(join(tmpdir(), 'robust-lock-mutations-'))
const env = { ...process.env, NO_COLOR: '1', CARGO_TARGET_DIR: join(root, 'target', 'mutations') }

/**
 * Ends it and what it has started after so long; a build may take its time on a busy machine. Its words go to files:
 * what a test that fails leaves behind may keep a pipe open for ever.
 */
function run(limit, command, args, settings = {}) {
  const words = ['stdout', 'stderr'].map((name) => join(copy, `.${name}`))
  const files = words.map((file) => openSync(file, 'w'))
  const { status } = spawnSync('timeout', ['-s', 'KILL', String(limit), command, ...args], { cwd: copy, stdio: ['ignore', ...files], ...settings, env: { ...env, ...settings.env } })
  for (const file of files) closeSync(file)
  const [stdout, stderr] = words.map((file) => readFileSync(file, 'utf8'))
  return { status, stdout, stderr }
}
const BUILD_S = 3_600
/** Longer than the runner of the suites waits for one. */
const TEST_S = 400

/** The crate that a Rust test belongs to. */
const projectOf = ([, path]) => (path.startsWith('crates/node') ? 'robust-lock-node' : 'robust-lock-core')

/** Whether a Rust test passes; one that does not exist is a failure of this script. */
function passesRust(project, file, test) {
  const args = ['test', '--quiet', '--locked', '-p', project, '--test', file]
  const built = run(BUILD_S, 'cargo', [...args, '--no-run'])
  if (built.status !== 0) throw new Error(`it does not compile:\n${built.stderr}`)
  const { status, stdout } = run(TEST_S, 'cargo', [...args, '--', '--exact', test])
  if (status === 0 && !/1 passed/.test(stdout)) throw new Error(`there is no test ${test} in ${file}`)
  return status === 0
}

function build(script, settings) {
  const { stdout, stderr, status } = run(BUILD_S, 'npm', ['run', '--silent', script], settings)
  // A mutation may leave a name unused; what tsc cannot make sense of at all is another matter.
  if (/error TS1\d\d\d:/.test(stdout) || (script === 'build:native' && status !== 0)) throw new Error(`it does not compile:\n${stdout}${stderr}`)
  return status === 0
}

/** Whether a test of a suite passes, which runs alone: one that blocks its thread for good can say nothing. */
function passesSuite(file, test) {
  const { stdout, status } = run(TEST_S, process.execPath, ['scripts/test-ts.mjs', `${file}.test`], { env: { ROBUST_LOCK_TEST_ONLY: test } })
  if (status === 0) return true
  const failed = stdout.split('\n').some((line) => /^\s*FAIL /.test(line) && line.includes(`"${test}"`))
  if (!failed && !/ FAILED hung /.test(stdout)) throw new Error(`${file} fails, but not this test:\n${stdout}`)
  return false
}

const modules = readdirSync(root).filter((name) => name.endsWith('.node'))
let isWhole = false
/** The facade as it is, built in the copy once: each mutation replaces a part. */
function prepareFacade() {
  if (isWhole) return
  isWhole = true
  for (const part of ['package.json', 'tsconfig.json', 'tsconfig.tools.json', 'scripts', 'ts', '__test__', 'demo', 'soak', 'examples', ...modules]) {
    cpSync(join(root, part), join(copy, part), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  if (!build('build:ts')) throw new Error('the facade as it is does not compile: npm run build comes first')
  for (const [, , , , file, test] of chosen.filter(isOfFacade)) {
    if (!passesSuite(file, test)) unsound.add(test)
  }
}
/** What fails without any mutation proves nothing. */
const unsound = new Set()
/** The Rust tests that have passed without one. */
const sound = new Set()
function prepareRust(mutation) {
  const [, , , , file, test] = mutation
  if (sound.has(test) || unsound.has(test)) return
  ;(passesRust(projectOf(mutation), file, test) ? sound : unsound).add(test)
}

function passes(mutation) {
  const [, path, , , file, test] = mutation
  if (!isOfFacade(mutation)) return passesRust(projectOf(mutation), file, test)
  if (path.startsWith('crates/')) build('build:native', { env: { CARGO_PROFILE_RELEASE_LTO: 'off', CARGO_PROFILE_RELEASE_CODEGEN_UNITS: '16' } })
  else build('build:ts')
  return passesSuite(file, test)
}

/** What comes of one mutation: null if the test finds it, else what is wrong. */
function survival(mutation) {
  const [, path, from, to, , test] = mutation
  if (isOfFacade(mutation)) prepareFacade()
  else {
    try {
      prepareRust(mutation)
    } catch (error) {
      return `CANNOT BE TRIED (${error.message})`
    }
  }
  if (unsound.has(test)) return 'FAILS WITHOUT IT'
  const place = join(copy, path)
  const original = readFileSync(place, 'utf8')
  try {
    const wrong = misplaced(mutation)
    if (wrong !== undefined) throw new Error(wrong)
    writeFileSync(place, original.replace(from, () => to))
    return passes(mutation) ? 'SURVIVES' : null
  } catch (error) {
    return `DOES NOT APPLY (${error.message})`
  } finally {
    writeFileSync(place, original)
    if (isWhole) for (const module of modules) cpSync(join(root, module), join(copy, module))
  }
}

const chosen = mutations.filter(([name]) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
let bad = 0
try {
  for (const part of ['Cargo.toml', 'Cargo.lock', 'clippy.toml', 'crates']) cpSync(join(root, part), join(copy, part), { recursive: true })
  for (const mutation of chosen) {
    const wrong = survival(mutation)
    if (wrong !== null) bad++
    console.log(`${mutation[0].padEnd(42)} ${wrong ?? 'found by'} ${mutation[4]}: ${mutation[5]}`)
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}
console.log(bad === 0 ? `all of ${chosen.length} mutations are found` : `${bad} of ${chosen.length} mutations are not found`)
process.exitCode = bad === 0 ? 0 : 1
