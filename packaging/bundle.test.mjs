// What people make of the installed packages: bundles, single executables, Plug'n'Play, processes with few
// permissions. README.md, "Bundles and the like", says what each needs; this tries just that, on every Node.
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nodes, twoAtATime } from './nodes.mjs'
import { Sandbox, alone, native, packages, tarball, tools, withRegistry } from './sandbox.mjs'

const test = suite('bundle')
const require = createRequire(import.meta.url)
const { build } = require('esbuild')
const webpack = require('webpack')
const programs = join(import.meta.dirname, 'programs')
const outcome = `${JSON.stringify({ supported: true, busy: true, ownerDied: true })}\n`
const platform = native.split('/')[1]
const file = `robust-lock.${platform}.node`

/** Where it is bundled. What comes of it is run elsewhere: nothing can be found by accident. */
const workshop = new Sandbox()

test.before(async () => {
  await workshop.npm('install', '--offline', tarball('robust-lock'), tarball(native))
  workshop.copy(programs, 'programs')
})

const entry = () => workshop.path('programs', 'bundled.mjs')
const module = () => workshop.path('node_modules', native, file)

/** Runs a bundle, with what lies beside it, in a place of its own. */
async function runs(bundle, { beside = [] } = {}) {
  const elsewhere = new Sandbox()
  cpSync(join(bundle, '..'), elsewhere.path('app'), { recursive: true })
  for (const one of beside) cpSync(one, elsewhere.path('app', basename(one)))
  const program = elsewhere.path('app', basename(bundle))
  await twoAtATime(nodes(), async ({ major, node }) => {
    const { stdout } = await elsewhere.run(node, [program], { node, env: alone(elsewhere) })
    assert.is(stdout, outcome, `on Node ${major}`)
  })
  return { elsewhere, program }
}

async function esbuild(outfile, options) {
  const { warnings } = await build({ entryPoints: [entry()], bundle: true, platform: 'node', outfile, logLevel: 'silent', ...options })
  assert.equal(warnings, [])
  return outfile
}

async function packed(folder, options) {
  const output = { path: workshop.path(folder), filename: 'app.cjs' }
  const stats = await new Promise((resolve, reject) => {
    const settle = (error, done) => (error ? reject(error) : resolve(done))
    webpack({ mode: 'production', target: 'node', context: workshop.folder, entry: entry(), output, ...options }, settle)
  })
  const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true })
  assert.equal(errors, [])
  return { bundle: join(output.path, output.filename), warnings: warnings.map(({ message }) => message) }
}

const banner = { js: `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);` }

test('esbuild, CommonJS, with the module as a file', async () => {
  await runs(await esbuild(workshop.path('esbuild-cjs', 'app.cjs'), { loader: { '.node': 'copy' } }))
})

test('esbuild, an ES module, with a require', async () => {
  await runs(await esbuild(workshop.path('esbuild-esm', 'app.mjs'), { format: 'esm', banner, loader: { '.node': 'copy' } }))
})

test('esbuild, the package left out, its file laid beside', async () => {
  const bundle = await esbuild(workshop.path('esbuild-out', 'app.cjs'), { external: ['@robust-lock/*'] })
  const { elsewhere, program } = await runs(bundle, { beside: [module()] })
  // Without the file: what is said of a package that is not there.
  cpSync(bundle, elsewhere.path('bare', 'app.cjs'))
  const { stderr } = await elsewhere.run(process.execPath, [elsewhere.path('bare', 'app.cjs')], { fails: true, env: alone(elsewhere) })
  assert.match(stderr, 'ERR_ROBUST_LOCK_NO_PREBUILT')
  assert.match(stderr, native)
  assert.ok(program.startsWith(elsewhere.folder))
})

test('two bundles that share the file, in one process', async () => {
  const options = { loader: { '.node': 'copy' }, format: 'cjs' }
  for (const name of ['one.cjs', 'two.cjs']) {
    await esbuild(workshop.path('shared', name), { ...options, entryPoints: undefined, stdin: { contents: "export * from 'robust-lock'", resolveDir: workshop.folder } })
  }
  const source = `
    const { fork } = require('node:child_process')
    if (process.argv[2] === 'child') {
      const guard = require('./one.cjs').openManager({ name: 'shared', inUse: [0] }).retrieveLock(0).lockSync()
      process.on('message', () => { guard.unlock(); process.disconnect() })
      process.send('held')
    } else (async () => {
      const copies = [require('./one.cjs'), require('./two.cjs')]
      for (const { openManager } of [...copies, ...copies]) {
        const child = fork(__filename, ['child'])
        await new Promise((resolve) => child.once('message', resolve))
        const waiting = openManager({ name: 'shared' }).retrieveLock(0).lock()
        child.send('let go')
        ;(await waiting).unlock()
      }
      console.log(JSON.stringify({ supported: true, busy: true, ownerDied: copies[0] !== copies[1] }))
    })()`
  writeFileSync(workshop.path('shared', 'app.cjs'), source)
  await runs(workshop.path('shared', 'app.cjs'))
})

test('webpack, with node-loader', async () => {
  const rules = [{ test: /\.node$/, loader: require.resolve('node-loader') }]
  const { bundle, warnings } = await packed('webpack-loader', { module: { rules } })
  for (const warning of warnings) assert.match(warning, /Can't resolve '@robust-lock\/linux-/)
  await runs(bundle)
})

test('webpack, the package left out, its file laid beside', async () => {
  const { bundle, warnings } = await packed('webpack-out', { externals: [{}, /^@robust-lock\//], externalsType: 'commonjs' })
  assert.equal(warnings, [])
  await runs(bundle, { beside: [module()] })
})

test('a single executable application, the file laid beside', async () => {
  const bundle = await esbuild(workshop.path('sea', 'app.cjs'), { external: ['@robust-lock/*'] })
  const fuse = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
  const postject = join(tools, 'postject', 'dist', 'cli.js')
  await twoAtATime(nodes().filter(({ major }) => major % 2 === 0), async ({ major, node }) => {
    const elsewhere = new Sandbox()
    const [config, blob, app] = ['sea.json', 'sea.blob', 'app'].map((name) => elsewhere.path(name))
    writeFileSync(config, JSON.stringify({ main: bundle, output: blob, disableExperimentalSEAWarning: true }))
    await workshop.run(node, ['--experimental-sea-config', config])
    cpSync(node, app)
    await workshop.run(process.execPath, [postject, app, 'NODE_SEA_BLOB', blob, '--sentinel-fuse', fuse])
    const { stderr } = await elsewhere.run(app, [], { fails: true, env: alone(elsewhere) })
    assert.match(stderr, 'ERR_ROBUST_LOCK_NO_PREBUILT', `on Node ${major}`)
    cpSync(module(), elsewhere.path(file))
    assert.is((await elsewhere.run(app, [], { env: alone(elsewhere) })).stdout, outcome, `on Node ${major}`)
  })
})

test("Yarn's Plug'n'Play", () =>
  withRegistry("Yarn's Plug'n'Play", [], async (url) => {
    const project = new Sandbox()
    const yarn = (...arguments_) => project.run(process.execPath, [join(tools, '@yarnpkg', 'cli-dist', 'bin', 'yarn.js'), ...arguments_])
    const { version } = packages.at(-1)
    writeFileSync(project.path('package.json'), JSON.stringify({ private: true, dependencies: { 'robust-lock': version } }))
    const settings = ['nodeLinker: pnp', 'pnpEnableEsmLoader: true', 'enableTelemetry: false', 'enableGlobalCache: false', `npmRegistryServer: "${url}"`, 'unsafeHttpWhitelist: ["127.0.0.1"]']
    const set = (...more) => writeFileSync(project.path('.yarnrc.yml'), [...settings, ...more, ''].join('\n'))
    project.copy(programs, 'programs')
    mkdirSync(project.path('home'), { recursive: true })
    set()
    writeFileSync(project.path('yarn.lock'), '')
    await yarn('install')
    const hooks = ['--require', project.path('.pnp.cjs'), '--loader', pathToFileURL(project.path('.pnp.loader.mjs')).href]
    await twoAtATime(nodes(), async ({ major, node }) => {
      const run = (program) => project.run(node, [...hooks, project.path('programs', program)], { node, env: alone(project) })
      assert.is((await run('esm.mjs')).stdout, outcome, `on Node ${major}`)
      assert.is((await run('commonjs.cjs')).stdout, outcome.replace('"ownerDied":true', '"ownerDied":false'), `on Node ${major}`)
    })
    // A lock file of another platform's: the package is known, and not there.
    set('supportedArchitectures:', '  cpu: [none]')
    await yarn('install')
    const { stdout } = await project.run(process.execPath, [...hooks, project.path('programs', 'missing.cjs')], { env: alone(project) })
    for (const { supported, code } of JSON.parse(stdout)) assert.equal([supported, code], [false, 'ERR_ROBUST_LOCK_NO_PREBUILT'])
  }))

test('--permission', async () => {
  const program = workshop.path('programs', 'missing.cjs')
  await twoAtATime(nodes(), async ({ major, node }) => {
    // The first ones call it by another name, and cannot tell which files a module needs.
    const begin = [major < 22 ? '--experimental-permission' : '--permission', '--no-warnings']
    const run = async (...flags) => JSON.parse((await workshop.run(node, [...begin, ...flags, program], { node, env: alone(workshop) })).stdout)
    const needed = major < 22 ? [workshop.folder] : [program, ...[native, 'robust-lock'].map((name) => workshop.path('node_modules', name))]
    // With musl the loader has to see which libc this is.
    const libc = native.endsWith('-musl') ? ['--allow-fs-read=/proc/self/maps'] : []
    const reads = [...needed.map((path) => `--allow-fs-read=${path}*`), ...libc]
    for (const { supported, opened } of await run('--allow-addons', ...reads)) assert.ok(supported && opened, `on Node ${major}`)
    for (const { code, isOurs } of await run(...reads)) assert.equal([code, isOurs], ['ERR_DLOPEN_DISABLED', false], `on Node ${major}`)
    if (major < 22) return
    const unread = reads.filter((read) => !read.includes(native))
    for (const { supported, code } of await run('--allow-addons', ...unread)) assert.equal([supported, code], [false, 'ERR_ACCESS_DENIED'], `on Node ${major}`)
  })
})

test.run()
