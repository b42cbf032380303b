// A user's machine: an empty folder, packages installed into it, no compiler on the PATH, and an npm that
// has nobody to ask.
import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { networkInterfaces, tmpdir } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { ownPlatform } from '../scripts/release/platform.mjs'

export const root = resolve(import.meta.dirname, '..')
export const tools = join(import.meta.dirname, 'node_modules')
const out = join(root, 'npm')

/** The packages that scripts/release/pack.mjs has made; robust-lock is the last one. */
export const packages = JSON.parse(readFileSync(join(out, 'release.json'), 'utf8'))
export const tarball = (name) => join(out, packages.find((one) => one.name === name).tarball)
export const native = `@robust-lock/${ownPlatform()}`

/** Whether this process can reach another machine. */
export const online = Object.values(networkInterfaces()).flat().some(({ internal }) => !internal)

const left = []
process.on('exit', () => {
  for (const folder of left) rmSync(folder, { recursive: true, force: true })
})

function which(program) {
  for (const folder of process.env.PATH.split(delimiter)) {
    try {
      return readFileSync(join(folder, program)) && join(folder, program)
    } catch {
      // Not here.
    }
  }
  throw new Error(`there is no ${program} on the PATH`)
}

const npm = process.env.npm_execpath ?? which('npm')

export class Sandbox {
  /** Not in /dev/shm: it may be mounted noexec. */
  folder = mkdtempSync(join(tmpdir(), 'robust-lock-sandbox-'))
  /** Where the segments of what runs here are. */
  segments = mkdtempSync('/dev/shm/robust-lock-sandbox-')
  #env

  constructor({ registry = 'http://127.0.0.1:9/' } = {}) {
    left.push(this.folder, this.segments)
    for (const folder of ['bin', 'home']) mkdirSync(join(this.folder, folder))
    for (const program of ['sh', 'env']) symlinkSync(which(program), join(this.folder, 'bin', program))
    symlinkSync(process.execPath, join(this.folder, 'bin', 'node'))
    writeFileSync(join(this.folder, 'package.json'), JSON.stringify({ private: true }))
    this.#env = {
      PATH: join(this.folder, 'bin'),
      HOME: join(this.folder, 'home'),
      TMPDIR: tmpdir(),
      ROBUST_LOCK_DIR: this.segments,
      npm_config_registry: registry,
      npm_config_cache: join(this.folder, 'home', 'cache'),
      npm_config_fetch_retries: '0',
      npm_config_audit: 'false',
      npm_config_fund: 'false',
      npm_config_update_notifier: 'false',
    }
  }

  path(...parts) {
    return join(this.folder, ...parts)
  }

  copy(from, to) {
    cpSync(from, this.path(to), { recursive: true })
  }

  /** Runs a program here. Gives what it wrote, and throws with all of it if it fails. */
  async run(program, arguments_, { env = {}, node, fails = false } = {}) {
    const options = { cwd: this.folder, encoding: 'utf8', env: { ...this.#env, ...env }, timeout: 120_000, killSignal: 'SIGKILL' }
    if (node !== undefined) {
      // `node` on the PATH is the one under test, too.
      const bin = mkdtempSync(this.path('bin-'))
      symlinkSync(node, join(bin, 'node'))
      options.env.PATH = `${bin}${delimiter}${options.env.PATH}`
    }
    const [error, stdout, stderr] = await new Promise((settle) => {
      execFile(program, arguments_, options, (...ended) => settle(ended))
    })
    if ((error !== null) !== fails) {
      throw new Error(`${program} ${arguments_.join(' ')}: ${error?.signal ?? `code ${error?.code ?? 0}`}\n${stdout}${stderr}`)
    }
    return { stdout, stderr }
  }

  /** npm, as a user would call it, from the machine's own installation. */
  npm(...arguments_) {
    return this.run(process.execPath, [npm, ...arguments_])
  }

  /** A script that itself calls npm, and may publish. */
  publisher(script, registry) {
    symlinkSync(npm, this.path('bin', 'npm'))
    writeFileSync(this.path('home', '.npmrc'), `${registry.replace('http:', '')}/:_authToken=none\n`)
    return ({ flags = [], ...options } = {}) => this.run(process.execPath, [script, ...flags], options)
  }
}

let number = 0

/** The environment of one run: segments that no other run sees. */
export function alone(sandbox) {
  const folder = join(sandbox.segments, String(++number))
  mkdirSync(folder, { mode: 0o700 })
  return { ROBUST_LOCK_DIR: folder }
}

/** Yarn waits with what is new. */
const LONG_AGO = '2026-01-01T00:00:00.000Z'

/** Calls `use` with the address at which `answer` answers, on this machine alone. */
async function withServer(what, answer, use) {
  const server = createServer((request, response) => answer(decodeURIComponent(request.url), request, response))
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening))
  const url = `http://127.0.0.1:${server.address().port}`
  try {
    const reachable = await fetch(`${url}/robust-lock`).then(() => true, () => false)
    if (!reachable) return console.log(`not run: ${what}: the loopback interface is down, and there is no ip(8) to raise it`)
    await use(url)
  } finally {
    server.close()
  }
}

/** Calls `use` with the address of a registry that has these packages. */
export function withRegistry(what, asked, use) {
  const answer = (path, request, response) => {
    asked.push(path)
    const tarballOf = packages.find((one) => path === `/${one.tarball}`)
    if (tarballOf) return response.end(readFileSync(tarball(tarballOf.name)))
    const known = packages.find(({ name }) => path === `/${name}`)
    if (!known) return response.writeHead(404).end('{}')
    const dist = { tarball: `http://${request.headers.host}/${known.tarball}`, integrity: known.integrity }
    const found = { ...known.manifest, dist }
    return response.end(JSON.stringify({ name: known.name, 'dist-tags': { latest: known.version }, versions: { [known.version]: found }, time: { [known.version]: LONG_AGO } }))
  }
  return withServer(what, answer, use)
}

/** Calls `use` with the address of a registry that has nothing yet. What it is given it puts into `taken`, by name. */
export function withEmptyRegistry(what, taken, use) {
  const answer = async (path, request, response) => {
    const name = path.slice(1)
    if (request.method === 'PUT') taken.set(name, await new Response(request).json())
    else if (!taken.has(name)) response.writeHead(404)
    response.end(JSON.stringify(taken.get(name) ?? {}))
  }
  return withServer(what, answer, use)
}
