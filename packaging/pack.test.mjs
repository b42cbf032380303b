// The packages as npm would publish them: what is in them, and what they do on a machine with neither a
// compiler nor a network, on every major version of Node. `npm run test:pack` makes them first.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nodes, twoAtATime } from './nodes.mjs'
import { Sandbox, alone, native, online, packages, root, tarball, tools, withEmptyRegistry, withRegistry } from './sandbox.mjs'

const test = suite('pack')
const programs = join(import.meta.dirname, 'programs')
const outcome = (ownerDied) => `${JSON.stringify({ supported: true, busy: true, ownerDied })}\n`
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const inTools = (...parts) => join(tools, ...parts)

/** A folder with robust-lock and its native package, installed out of their tarballs. */
const installed = new Sandbox()
/** The same without the native package. */
const incomplete = new Sandbox()
const manifest = (name) => JSON.parse(readFileSync(installed.path('node_modules', name, 'package.json'), 'utf8'))

test.before(async () => {
  console.log(online ? 'the network could not be taken away (unshare is refused); npm is told to be offline' : 'no network')
  await installed.npm('install', '--offline', tarball('robust-lock'), tarball(native))
  await incomplete.npm('install', '--offline', '--omit=optional', tarball('robust-lock'))
  for (const sandbox of [installed, incomplete]) sandbox.copy(programs, 'programs')
})

test('there is no compiler', async () => {
  for (const program of ['cargo', 'rustc', 'gcc', 'cc', 'ld', 'make', 'python3']) {
    await installed.run('sh', ['-c', `command -v ${program}`], { fails: true })
  }
  await installed.run('sh', ['-c', 'command -v node'])
})

test("each package says where it runs, and has its licence, a README, and no scripts", () => {
  // npm refuses a provenance that names another repository than the package does.
  const { GITHUB_SERVER_URL: server = 'https://github.com', GITHUB_REPOSITORY: repository } = process.env
  const url = repository ? `git+${server}/${repository}.git` : undefined
  for (const { name, files, manifest: its } of packages) {
    assert.is(its.repository?.url, url, name)
    const paths = files.map(({ path }) => path)
    for (const file of ['LICENSE', 'README.md', 'package.json']) assert.ok(paths.includes(file), `${name}: ${file}`)
    assert.not(paths.some((path) => path.endsWith('.node')) && name === 'robust-lock', 'no binary in robust-lock')
  }
  const main = manifest('robust-lock')
  assert.equal([main.version, main.license, main.engines], [version, 'Apache-2.0', { node: '>=20.5.0' }])
  for (const absent of ['os', 'cpu', 'libc', 'scripts', 'dependencies', 'devDependencies', 'peerDependencies']) assert.is(main[absent], undefined, absent)
  assert.equal(main.optionalDependencies, Object.fromEntries(packages.slice(0, -1).map(({ name }) => [name, version])))
  const { os, cpu, libc, engines, license, scripts, dependencies, files } = manifest(native)
  assert.equal([os, cpu, libc, license, scripts, dependencies], [['linux'], [process.arch], [native.endsWith('musl') ? 'musl' : 'glibc'], 'Apache-2.0', undefined, undefined])
  assert.equal(engines, { node: process.arch === 'arm' ? '20 || 22' : '>=20.5.0' })
  assert.equal([files.length, files[1]], [2, 'THIRD-PARTY.md'])
  const notices = readFileSync(installed.path('node_modules', native, 'THIRD-PARTY.md'), 'utf8')
  for (const crate of ['napi 3', 'nix 0', 'libloading 0']) assert.match(notices, new RegExp(`^## ${crate}\\S* .*: (MIT|ISC)\n\n[^#]*Permission`, 'm'))
  assert.equal(readdirSync(installed.path('node_modules')).filter((name) => !name.startsWith('.')), ['@robust-lock', 'robust-lock'])
})

test('publint finds nothing', async () => {
  for (const { name } of packages) {
    const { stdout } = await installed.run(process.execPath, [inTools('publint', 'src', 'cli.js'), '--strict', tarball(name)])
    assert.match(stdout, 'All good!', stdout)
  }
})

test('arethetypeswrong finds nothing', async () => {
  const cli = inTools('@arethetypeswrong', 'cli', 'dist', 'index.js')
  const { stdout } = await installed.run(process.execPath, [cli, '--format', 'json', tarball('robust-lock')])
  assert.equal(JSON.parse(stdout).problems ?? {}, {})
  assert.ok(JSON.parse(stdout).analysis.types !== false)
})

test('a program in TypeScript compiles against the types', async () => {
  const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const flags = ['--strict', '--exactOptionalPropertyTypes', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,esnext.disposable,dom']
  const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules', '@types')]
  await installed.run(process.execPath, [compiler, ...flags, ...types, 'programs/typescript.mts', 'programs/typescript.cts'])
})

test('programs of two processes, on every Node', async () => {
  await twoAtATime(nodes(), async ({ major, node }) => {
    const run = async (program) => (await installed.run(node, [`programs/${program}`], { node, env: alone(installed) })).stdout
    assert.is(await run('esm.mjs'), outcome(true), `esm on Node ${major}`)
    assert.is(await run('commonjs.cjs'), outcome(false), `commonjs on Node ${major}`)
    assert.is(await run('typescript.mjs'), outcome(true), `typescript on Node ${major}`)
    assert.is(await run('typescript.cjs'), outcome(false), `typescript in CommonJS on Node ${major}`)
  })
})

test('Jest, on every Node', async () => {
  // Jest's own choice in /tmp is named after the user, who is root in a namespace of his own.
  const config = JSON.stringify({ testMatch: ['**/*.test.cjs'], transform: {}, cacheDirectory: installed.path('jest-cache') })
  const jest = [inTools('jest', 'bin', 'jest.js'), '--runInBand', '--rootDir', installed.path('programs', 'jest'), '--config', config]
  await twoAtATime(nodes(), async ({ major, node }) => {
    const { stderr } = await installed.run(node, jest, { node, env: alone(installed) })
    assert.match(stderr, 'Tests:       8 passed, 8 total', `on Node ${major}`)
  })
})

test('without the native package: importing throws nothing, opening has a code, on every Node', async () => {
  assert.not(existsSync(incomplete.path('node_modules', '@robust-lock')))
  await twoAtATime(nodes(), async ({ node }) => {
    const { stdout } = await incomplete.run(node, ['programs/missing.cjs'], { node, env: alone(incomplete) })
    for (const { message, ...rest } of JSON.parse(stdout)) {
      assert.equal(rest, { supported: false, code: 'ERR_ROBUST_LOCK_NO_PREBUILT', isOurs: true })
      assert.match(message, `${native} is not installed`)
      assert.match(message, `npm install --include=optional robust-lock@${version}`)
    }
  })
})

/** The native packages that an installation has. */
function natives(sandbox) {
  const folder = sandbox.path('node_modules', '@robust-lock')
  return existsSync(folder) ? readdirSync(folder).map((name) => `@robust-lock/${name}`) : []
}

test('npm install robust-lock brings the package of this platform, and of no other', async () => {
  const asked = []
  await withRegistry('npm install robust-lock', asked, async (url) => {
    const sandbox = new Sandbox({ registry: url })
    await sandbox.npm('install', 'robust-lock')
    assert.equal(natives(sandbox), [native])
    assert.equal(asked.filter((path) => path.endsWith('.tgz')).length, 2, asked.join(' '))
    sandbox.copy(programs, 'programs')
    const { stdout } = await sandbox.run(process.execPath, ['programs/esm.mjs'], { env: alone(sandbox) })
    assert.is(stdout, outcome(true))
    // npm ci, from the lock file that this has made.
    await sandbox.npm('ci')
    assert.is((await sandbox.run(process.execPath, ['programs/commonjs.cjs'], { env: alone(sandbox) })).stdout, outcome(false))
  })
})

test('what the error says mends an installation of another platform, and one without optional packages', async () => {
  await withRegistry('the command that mends', [], async (url) => {
    const ways = {
      'a folder and its lock file come from another platform': ['--os=darwin', '--cpu=arm64'],
      'without optional packages': ['--omit=optional'],
    }
    for (const [title, flags] of Object.entries(ways)) {
      const sandbox = new Sandbox({ registry: url })
      await sandbox.npm('install', ...flags, 'robust-lock')
      assert.equal(natives(sandbox), [], title)
      sandbox.copy(programs, 'programs')
      const ask = async () => JSON.parse((await sandbox.run(process.execPath, ['programs/missing.cjs'], { env: alone(sandbox) })).stdout)
      const [{ message }] = await ask()
      const [, command] = /Run "npm (.+?)"/.exec(message)
      await sandbox.npm(...command.split(' '))
      assert.equal(natives(sandbox), [native], title)
      for (const { supported, opened } of await ask()) assert.ok(supported && opened, title)
    }
  })
})

test('npm install for another platform brings its package, if there is one', async () => {
  await withRegistry('npm install for another platform', [], async (url) => {
    const platforms = packages.slice(0, -1).map(({ name, manifest: { os, cpu, libc, engines } }) => {
      // Of 32-bit ARM there are no newer Nodes.
      const fits = engines.node !== '20 || 22' || /^v2[02]\./.test(process.version)
      return { os: os[0], cpu: cpu[0], libc: libc[0], wanted: fits ? [name] : [] }
    })
    platforms.push({ os: 'darwin', cpu: 'arm64', libc: 'glibc', wanted: [] }, { os: 'linux', cpu: 'loong64', libc: 'glibc', wanted: [] })
    await twoAtATime(platforms, async ({ os, cpu, libc, wanted }) => {
      const sandbox = new Sandbox({ registry: url })
      await sandbox.npm('install', `--os=${os}`, `--cpu=${cpu}`, `--libc=${libc}`, 'robust-lock')
      assert.equal(natives(sandbox), wanted, `${os} ${cpu} ${libc}`)
    })
    console.log(`\nchosen among ${packages.length - 1}`)
  })
})

test('a release publishes robust-lock last, goes on after it broke off, and stops at what is another', async () => {
  const taken = new Map()
  await withEmptyRegistry('a release', taken, async (url) => {
    const sandbox = new Sandbox({ registry: url })
    const publish = sandbox.publisher(join(root, 'scripts', 'release', 'publish.mjs'), url)
    const names = packages.map(({ name }) => name)
    await publish()
    assert.equal([...taken.keys()], names)
    for (const { name, integrity } of packages) assert.is(taken.get(name).versions[version].dist.integrity, integrity, name)
    // It broke off before robust-lock.
    taken.delete('robust-lock')
    const { stdout } = await publish()
    assert.equal(stdout.match(/^\S+(?= is published already$)/gm), names.slice(0, -1).map((name) => `${name}@${version}`))
    assert.equal([...taken.keys()], names)
    taken.get(native).versions[version].dist.integrity = packages.at(-1).integrity
    taken.delete('robust-lock')
    const { stderr } = await publish({ fails: true })
    assert.match(stderr, `${native}@${version} is published already, and is not the same`)
    assert.not(taken.has('robust-lock'))
    // Between two releases that is nothing to stop at.
    const dry = await publish({ flags: ['--dry-run'] })
    assert.equal(dry.stdout.match(/^\S+(?= is published already$)/gm), names.slice(0, -1).map((name) => `${name}@${version}`))
    assert.not(taken.has('robust-lock'))
  })
})

test.run()
