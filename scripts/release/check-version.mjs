// One version everywhere: package.json, Cargo.toml, their lock files (a release is built with --locked), and
// CHANGELOG.md, which must have an entry for it. In a release the tag says it, too:
//
//   node scripts/release/check-version.mjs [vX.Y.Z]
import { readFileSync } from 'node:fs'

const read = (file) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
const { version } = JSON.parse(read('package.json'))
const locked = JSON.parse(read('package-lock.json')).packages[''].version
const cargo = /^\[workspace\.package\]\nversion = "([^"]+)"$/m.exec(read('Cargo.toml'))?.[1]
const crates = [...read('Cargo.lock').matchAll(/^name = "(robust-lock-\w+)"\nversion = "([^"]+)"$/gm)]
const [tag] = process.argv.slice(2)

const faults = []
if (!/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version)) faults.push(`package.json's version ${version} is none of X.Y.Z or X.Y.Z-name`)
if (locked !== version) faults.push(`package-lock.json says ${locked}: npm install`)
if (cargo !== version) faults.push(`Cargo.toml says ${cargo}`)
for (const [, name, its] of crates) if (its !== version) faults.push(`Cargo.lock says ${its} of ${name}: cargo update --workspace`)
if (crates.length !== 2) faults.push('Cargo.lock does not name the two crates')
if (tag !== undefined && tag !== `v${version}`) faults.push(`the tag is ${tag}`)
const escaped = version.replaceAll(/[.+]/g, String.raw`\$&`)
if (!new RegExp(String.raw`^## \[${escaped}\] - \d{4}-\d{2}-\d{2}$`, 'm').test(read('CHANGELOG.md'))) {
  faults.push(`CHANGELOG.md has no entry "## [${version}] - YYYY-MM-DD"`)
}
for (const fault of faults) console.error(`version ${version}: ${fault}`)
if (faults.length === 0) console.log(`version ${version}`)
process.exitCode = faults.length === 0 ? 0 : 1
