// The demo and the examples, as a user runs them.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { afterScript, allows } from './fixtures/namespace.cjs'
import { folder, suite } from './fixtures/suite.cjs'
import { patience, within } from './fixtures/within.cjs'

const test = suite('programs')
const root = join(__dirname, '..', '..')

interface Ended {
  code: number | null
  output: string
}

/** Where programs put their files: nothing may be left there. */
const temporary = join(folder, 'tmp')
mkdirSync(temporary)

/** `during`: what happens to it once it has said something. */
async function run(program: string, args: string[] = [], during?: (child: ChildProcess) => void): Promise<Ended> {
  const env = { ...process.env, TMPDIR: temporary }
  const child = spawn(process.execPath, [join(root, program), ...args], { stdio: ['ignore', 'pipe', 'pipe'], env })
  let output = ''
  if (during !== undefined) child.stdout.once('data', () => during(child))
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (part: string) => (output += part))
  const code = await within(new Promise<number | null>((resolve) => child.once('close', resolve)), program)
  assert.equal(readdirSync(temporary), [])
  assert.is(existsSync(`/dev/shm/robust-lock-demo-${child.pid}`), false)
  return { code, output }
}

function figure(output: string, row: string): number {
  return Number(new RegExp(`│ ${row} +│ +(\\d+) │`).exec(output)?.[1])
}

test('the demo: workers are killed, and the books balance', async () => {
  // A worker has to come to something before it is killed.
  const { code, output } = await run('build/demo/bank.cjs', ['--seconds', String(4 * patience), '--kill-every', String(50 * patience)])
  assert.is(code, 0, output)
  assert.match(output, /^ {2}1 s {2}\d+ transfers/m, 'plain lines where there is no terminal')
  assert.ok(figure(output, 'transfers') > 100)
  assert.ok(figure(output, 'kills') > 4)
  assert.ok(figure(output, 'owner deaths seen') > 0)
  assert.is(figure(output, 'total after'), figure(output, 'total before'))
})

test('the demo without locks shows what they are for', async () => {
  const { code, output } = await run('build/demo/bank.cjs', ['--seconds', '2', '--no-lock'])
  assert.is(code, 1, output)
  assert.match(output, /WRONG by/)
})

test('the demo refuses what it cannot do', async () => {
  for (const args of [['--workers', '0'], ['--seconds', 'x'], ['--accounts', '1'], ['--kill-every', '-1'], ['--unknown']]) {
    const { code, output } = await run('build/demo/bank.cjs', args)
    assert.is(code, 2, output)
    assert.match(output, /error: /)
  }
  assert.is((await run('build/demo/bank.cjs', ['--help'])).code, 0)
})

test('the demo leaves nothing behind when it is stopped, or nobody reads it', async () => {
  const stopped = (signal: NodeJS.Signals) => run('build/demo/bank.cjs', ['--seconds', '600'], (child) => child.kill(signal))
  assert.is((await stopped('SIGINT')).code, 130)
  assert.is((await stopped('SIGTERM')).code, 143)
  const { code } = await run('build/demo/bank.cjs', ['--seconds', '600'], ({ stdout }) => stdout?.destroy())
  assert.is(code, 2)
})

test('the demo that cannot run says so, and leaves nothing behind', async () => {
  // The worst of its places: the segment's folder is full.
  const wrapper = afterScript('mount -t tmpfs -o size=64k none /dev/shm')
  if (!allows(wrapper, 'the demo without room')) return
  const own = mkdtempSync(join(tmpdir(), 'robust-lock-programs-'))
  try {
    const [command = '', ...args] = [...wrapper, process.execPath, join(root, 'build/demo/bank.cjs')]
    const ran = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, TMPDIR: own } })
    assert.is(ran.status, 2)
    assert.match(ran.stderr, 'ERR_ROBUST_LOCK_NO_SPACE')
    assert.equal(readdirSync(own), [])
  } finally {
    rmSync(own, { recursive: true, force: true })
  }
})

for (const [example, said] of [
  ['quick-start', /the last owner died\? true/],
  ['single-instance', /second: another one is running[^]*third: I am the one/],
  ['work-queue', /40 jobs: 40 done, 40 different ones/],
  ['refresh', /no lock is shared: true/],
] as const) {
  test(`the example ${example}, twice`, async () => {
    for (let round = 0; round < 2; round++) {
      const { code, output } = await run(`examples/${example}.mjs`)
      assert.is(code, 0, output)
      assert.match(output, said)
    }
  })
}

test("the README's example is the one in examples/", () => {
  const shown = /<!-- quick-start -->\n```js\n([^]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8'))?.[1]
  const file = readFileSync(join(root, 'examples/quick-start.mjs'), 'utf8')
  assert.is(file.split('\n').slice(1).join('\n'), shown)
})

test('the README names every code, and no other', () => {
  const read = (file: string): string => readFileSync(join(root, file), 'utf8')
  const table = /\| code `ERR_ROBUST_LOCK_…`[^]*?\n\n/.exec(read('README.md'))?.[0] ?? ''
  const named = table.split('\n').flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([A-Z_]+)`/g)].map(([, code]) => code))
  const typed = [...read('ts/errors.cts').matchAll(/^ {2}\| 'ERR_ROBUST_LOCK_([A-Z_]+)'$/gm)].map(([, code]) => code)
  assert.ok(typed.length > 20)
  // Two are warnings', and no error's.
  assert.equal(named.sort(), [...typed, 'STALE_SEGMENT', 'LOST_OWNER'].sort())
})

test('nothing is left but the segments that keep their names', () => {
  const kept = readdirSync(folder).filter((name) => !['robust-lock-example', 'example-single-instance', 'tmp'].includes(name))
  assert.equal(kept, [])
})

test.run()
