// Makes the packages of a release, without publishing anything:
//
//   node scripts/release/pack.mjs [--binaries FOLDER] [--out FOLDER] [--only linux-x64-gnu …]
//
// Takes robust-lock.PLATFORM.node out of FOLDER (the repository's root) and dist/ as `npm run build` made
// it; leaves the tarballs, SHA256SUMS and release.json in the other one (npm/). @napi-rs/cli makes the
// platforms' packages and enters them as optional dependencies; what it leaves out is added here.
// $GITHUB_REPOSITORY, if set, becomes the packages' `repository`: npm's provenance demands it.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { NapiCli, parseTriple } from '@napi-rs/cli'
import { Command } from 'commander'
import { notices } from './notices.mjs'

const root = resolve(import.meta.dirname, '../..')
const scope = '@robust-lock'
/** Node has no 32-bit ARM binaries from 24 on. */
const ENGINES = { 'linux-arm-gnueabihf': '20 || 22' }

const options = new Command('pack')
  .option('--binaries <folder>', 'where the .node files are', root)
  .option('--out <folder>', 'where the tarballs go', join(root, 'npm'))
  .option('--only <platform...>', 'not all platforms, but these')
  .parse().opts()

const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'))
const writeJson = (file, value) => writeFileSync(file, `${JSON.stringify(value, undefined, 2)}\n`)
const own = readJson(join(root, 'package.json'))

/** The repository is known where a release is made, and nowhere else. */
function publicPlaces() {
  const { GITHUB_SERVER_URL: server = 'https://github.com', GITHUB_REPOSITORY: repository } = process.env
  if (!repository) return {}
  const url = `${server}/${repository}`
  return { homepage: `${url}#readme`, bugs: `${url}/issues`, repository: { type: 'git', url: `git+${url}.git` } }
}

/** What users need of the main package's manifest: nothing of how it is made. */
function published({ private: _private, scripts: _scripts, devDependencies: _tools, napi: _napi, optionalDependencies, ...manifest }) {
  const renamed = Object.entries(optionalDependencies).map(([name, version]) => [name.replace('robust-lock-', `${scope}/`), version])
  return { ...manifest, ...publicPlaces(), optionalDependencies: Object.fromEntries(renamed), publishConfig: { access: 'public' } }
}

function readme(platform) {
  return `# ${scope}/${platform}

The native module of robust-lock for ${platform}. npm installs it together with the package robust-lock
of the very same version, where it fits; it is of no use by itself.

Licence: Apache-2.0; what is linked in has licences of its own: see THIRD-PARTY.md.
`
}

function completePlatform(folder, platform, linked) {
  const file = join(folder, 'package.json')
  const manifest = readJson(file)
  writeJson(file, {
    ...manifest,
    name: `${scope}/${platform}`,
    description: `The native module of robust-lock for ${platform}`,
    type: 'commonjs',
    ...publicPlaces(),
    engines: { node: ENGINES[platform] ?? own.engines.node },
    libc: [platform.endsWith('musl') ? 'musl' : 'glibc'],
    files: [...manifest.files, 'THIRD-PARTY.md'],
    publishConfig: { access: 'public' },
  })
  writeFileSync(join(folder, 'README.md'), readme(platform))
  writeFileSync(join(folder, 'THIRD-PARTY.md'), linked)
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'))
}

/** The packages' folders, in the order in which they are published: robust-lock needs the others. */
async function stage(folder) {
  const triples = own.napi.targets.filter((triple) => !options.only || options.only.includes(parseTriple(triple).platformArchABI))
  const platforms = triples.map((triple) => parseTriple(triple).platformArchABI)
  for (const wanted of options.only ?? []) {
    if (!platforms.includes(wanted)) throw new Error(`package.json names no target for ${wanted}`)
  }
  for (const file of ['README.md', 'LICENSE', 'CHANGELOG.md']) copyFileSync(join(root, file), join(folder, file))
  cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
  writeJson(join(folder, 'package.json'), { ...own, napi: { ...own.napi, targets: triples } })
  mkdirSync(join(folder, 'artifacts'))
  for (const platform of platforms) {
    const file = `robust-lock.${platform}.node`
    copyFileSync(join(options.binaries, file), join(folder, 'artifacts', file))
  }
  const napi = new NapiCli()
  await napi.createNpmDirs({ cwd: folder })
  await napi.artifacts({ cwd: folder })
  await napi.prePublish({ cwd: folder, skipOptionalPublish: true, ghRelease: false })
  const linked = notices()
  for (const platform of platforms) completePlatform(join(folder, 'npm', platform), platform, linked)
  writeJson(join(folder, 'package.json'), published(readJson(join(folder, 'package.json'))))
  return [...platforms.map((platform) => join(folder, 'npm', platform)), folder]
}

function pack(folder) {
  const arguments_ = ['pack', '--json', '--ignore-scripts', '--pack-destination', options.out, folder]
  // A list of packages; an object, by name, since npm 12.
  const [packed] = Object.values(JSON.parse(execFileSync('npm', arguments_, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })))
  const { name, version, filename, size, unpackedSize, integrity, files } = packed
  const tarball = basename(filename)
  const sha256 = createHash('sha256').update(readFileSync(join(options.out, tarball))).digest('hex')
  return { name, version, manifest: readJson(join(folder, 'package.json')), tarball, size, unpackedSize, sha256, integrity, files: files.map((file) => ({ path: file.path, size: file.size })) }
}

if (!existsSync(join(root, 'dist', 'index.cjs'))) throw new Error('there is no dist/ yet: npm run build')
options.binaries = resolve(options.binaries)
options.out = resolve(options.out)
rmSync(options.out, { recursive: true, force: true })
mkdirSync(options.out, { recursive: true })
const folder = mkdtempSync(join(tmpdir(), 'robust-lock-release-'))
try {
  const packages = (await stage(folder)).map(pack)
  writeJson(join(options.out, 'release.json'), packages)
  writeFileSync(join(options.out, 'SHA256SUMS'), packages.map(({ sha256, tarball }) => `${sha256}  ${tarball}\n`).join(''))
  for (const { name, version, size, tarball } of packages) console.log(`${name}@${version}: ${tarball}, ${size} bytes`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
