// Publishes what pack.mjs has left in npm/, robust-lock last: from its first second it finds the others.
// A release that broke off can be run again: what is there already is passed over, if it is the same.
//
//   node scripts/release/publish.mjs [--dry-run]
//
// Where GitHub's OIDC is at hand npm needs no token, and signs where the packages were made.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Command } from 'commander'

const out = resolve(import.meta.dirname, '../../npm')
const { dryRun } = new Command('publish').option('--dry-run', 'publishes nothing').parse().opts()
const packages = JSON.parse(readFileSync(join(out, 'release.json'), 'utf8'))

/** The integrity of what is published under this name and version, if anything is. */
function published({ name, version }) {
  const { status, stdout } = spawnSync('npm', ['view', `${name}@${version}`, 'dist.integrity', '--json'], { encoding: 'utf8' })
  const answer = stdout.trim() === '' ? undefined : JSON.parse(stdout)
  // A string; since npm 12 a list of one.
  if (status === 0) return [answer].flat()[0]
  if (answer?.error?.code === 'E404') return undefined
  throw new Error(`npm does not say whether ${name}@${version} is there: ${stdout}`)
}

for (const one of packages) {
  const { name, version, tarball, integrity } = one
  const there = published(one)
  if (there !== undefined) {
    // Between two releases the tree has the last one's version, and is not the same: a dry run is not hindered by it.
    if (there !== integrity && !dryRun) throw new Error(`${name}@${version} is published already, and is not the same`)
    console.log(`${name}@${version} is published already`)
    continue
  }
  const flags = ['--access', 'public', '--ignore-scripts', '--tag', version.includes('-') ? 'next' : 'latest']
  if (process.env.ACTIONS_ID_TOKEN_REQUEST_URL) flags.push('--provenance')
  if (dryRun) flags.push('--dry-run')
  execFileSync('npm', ['publish', join(out, tarball), ...flags], { stdio: ['ignore', 'inherit', 'inherit'] })
}
