// How the native module is found, in an installation as npm would make it, and what is said if it is not.
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import * as assert from 'uvu/assert'
import * as lib from 'robust-lock'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { isWaitedFor } from './fixtures/segment.cjs'
import { suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('loader')
const root = join(__dirname, '..', '..')

lib.openManager({ name: unique() })
/** The module that this process has loaded, and the name of its platform. */
const native = /\/\S*\/robust-lock\.linux-\S+\.node$/m.exec(readFileSync('/proc/self/maps', 'latin1'))?.[0] as string
const platform = basename(native).split('.')[1] as string
const wanted = `@robust-lock/${platform}`

interface Outcome {
  supported: boolean
  code?: string
  message?: string
  isOurs: boolean
}

const tryToOpen = `
  const lib = require('robust-lock')
  let error = {}
  try { lib.openManager({ name: '${unique()}' }).retrieveLock(0).lockSync().unlock() } catch (thrown) { error = thrown }
  const { code, message } = error
  console.log(JSON.stringify({ supported: lib.supported, code, message, isOurs: error instanceof lib.LockError }))`

/** Installs robust-lock in a folder, lets `change` its packages, and tries to open a manager there. */
function installed(change: (own: string, theirs: string) => void, source = tryToOpen, loader: string[] = []): Outcome {
  // Not in /dev/shm: it may be mounted noexec.
  const folder = mkdtempSync(join(tmpdir(), 'robust-lock-installed-'))
  try {
    const own = join(folder, 'node_modules', 'robust-lock')
    const theirs = join(folder, 'node_modules', wanted)
    mkdirSync(theirs, { recursive: true })
    cpSync(join(root, 'dist'), join(own, 'dist'), { recursive: true })
    copyFileSync(join(root, 'package.json'), join(own, 'package.json'))
    copyFileSync(native, join(theirs, 'it.node'))
    writeFileSync(join(theirs, 'package.json'), JSON.stringify({ name: wanted, main: 'it.node' }))
    change(own, theirs)
    const [program, ...rest] = [...loader, process.execPath, '-e', source]
    const ran = spawnSync(program as string, rest, { cwd: folder, encoding: 'utf8', env: { ...process.env, ROBUST_LOCK_NATIVE_PATH: '' } })
    assert.is(ran.status, 0, ran.stderr)
    return JSON.parse(ran.stdout) as Outcome
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

test("the platform's package is found", () => {
  assert.equal(installed(() => {}), { supported: true, isOurs: false })
})

test('musl is known by either name of its file', () => {
  if (!platform.endsWith('musl')) return
  const libc = /\/\S*\/(ld-musl-\S+|libc\.so)$/m.exec(readFileSync('/proc/self/maps', 'latin1'))?.[0] as string
  const folder = mkdtempSync(join(tmpdir(), 'robust-lock-libc-'))
  try {
    // The other name than here. The library is its own loader.
    const other = join(folder, basename(libc) === 'libc.so' ? `ld-musl-${process.arch}.so.1` : 'libc.so')
    copyFileSync(libc, other)
    assert.equal(installed(() => {}, tryToOpen, [other]), { supported: true, isOurs: false })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('a package that is not there has a code, its name, and what mends it', () => {
  const { message, ...rest } = installed((_, theirs) => rmSync(theirs, { recursive: true }))
  assert.equal(rest, { supported: false, code: 'ERR_ROBUST_LOCK_NO_PREBUILT', isOurs: true })
  assert.match(message as string, `${wanted} is not installed`)
  assert.match(message as string, /Run "npm install --include=optional robust-lock@\d+\.\d+\.\d+\S*" on this machine/)
})

test('what is wrong inside the package is said as it is', () => {
  const damage: [string, (own: string, theirs: string) => void, string, RegExp][] = [
    ['its file is gone', (_, theirs) => rmSync(join(theirs, 'it.node')), 'MODULE_NOT_FOUND', /it\.node/],
    ['its file is no library', (_, theirs) => writeFileSync(join(theirs, 'it.node'), 'no library'), 'ERR_DLOPEN_FAILED', /it\.node/],
    [
      'it needs a library that is not there',
      (_, theirs) => {
        const bytes = readFileSync(native)
        const at = bytes.indexOf(/libc\.(musl-[^.]+\.)?so/.exec(bytes.toString('latin1'))?.[0] as string)
        bytes.write('gone', at, 'latin1')
        writeFileSync(join(theirs, 'it.node'), bytes)
      },
      'ERR_DLOPEN_FAILED',
      /gone/,
    ],
  ]
  for (const [title, change, code, message] of damage) {
    const outcome = installed(change)
    assert.is(outcome.isOurs, false, title)
    assert.is(outcome.code, code, `${title}: ${outcome.message}`)
    assert.match(outcome.message as string, message)
  }
})

test('a native module of another version is refused', () => {
  const { message, ...rest } = installed((own) => {
    const file = join(own, 'package.json')
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), version: '99.1.2' }))
  })
  assert.equal(rest, { supported: true, code: 'ERR_ROBUST_LOCK_NO_PREBUILT', isOurs: true })
  assert.match(message as string, 'robust-lock of 99.1.2')
  assert.match(message as string, 'npm install')
})

test('the module that the environment names comes first', () => {
  const change = (_: string, theirs: string): void => writeFileSync(join(theirs, 'it.node'), 'no library')
  const source = `process.env.ROBUST_LOCK_NATIVE_PATH = ${JSON.stringify(native)}; ${tryToOpen}`
  assert.equal(installed(change, source), { supported: true, isOurs: false })
})

test('a second copy of the library that finds the same module has waits of its own', async () => {
  // As after jest.resetModules(), or with two bundles in one process.
  for (const file of Object.keys(require.cache)) {
    if (file.startsWith(join(root, 'dist'))) delete require.cache[file]
  }
  const second = require('robust-lock') as typeof lib
  assert.is.not(second, lib)
  const name = unique()
  const peer = new ProcessPeer()
  await open(peer, { name, capacity: 1 })
  for (const copy of [lib, second, lib, second]) {
    const manager = copy.openManager({ name })
    await take(peer, 0)
    const waiting = manager.retrieveLock(0).lock()
    await until('it waits', () => isWaitedFor(manager.path, 0))
    await release(peer, 0)
    ;(await waiting).unlock()
  }
})

test.run()
