// The demo and the examples, as a user runs them.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { folder, suite } from './fixtures/suite.cjs'
import { within } from './fixtures/within.cjs'

const test = suite('programs')
const root = join(__dirname, '..', '..')

interface Ended {
  code: number | null
  output: string
}

async function run(program: string, ...args: string[]): Promise<Ended> {
  const child = spawn(process.execPath, [join(root, program), ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (part: string) => (output += part))
  const code = await within(new Promise<number | null>((resolve) => child.once('close', resolve)), program)
  return { code, output }
}

function figure(output: string, row: string): number {
  return Number(new RegExp(`│ ${row} +│ +(\\d+) │`).exec(output)?.[1])
}

test('the demo: workers are killed, and the books balance', async () => {
  const { code, output } = await run('build/demo/bank.cjs', '--seconds', '4', '--kill-every', '50')
  assert.is(code, 0, output)
  assert.match(output, /^ {2}1 s {2}\d+ transfers/m, 'plain lines where there is no terminal')
  assert.ok(figure(output, 'transfers') > 100)
  assert.ok(figure(output, 'kills') > 4)
  assert.ok(figure(output, 'owner deaths seen') > 0)
  assert.is(figure(output, 'total after'), figure(output, 'total before'))
})

test('the demo without locks shows what they are for', async () => {
  const { code, output } = await run('build/demo/bank.cjs', '--seconds', '2', '--no-lock')
  assert.is(code, 1, output)
  assert.match(output, /WRONG by/)
})

test('the demo refuses what it cannot do', async () => {
  for (const args of [['--workers', '0'], ['--seconds', 'x'], ['--accounts', '1'], ['--kill-every', '-1'], ['--unknown']]) {
    const { code, output } = await run('build/demo/bank.cjs', ...args)
    assert.is(code, 2, output)
    assert.match(output, /error: /)
  }
  assert.is((await run('build/demo/bank.cjs', '--help')).code, 0)
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

test('nothing is left but the segments that keep their names', () => {
  const kept = readdirSync(folder).filter((name) => !['robust-lock-example', 'example-single-instance'].includes(name))
  assert.equal(kept, [])
})

test.run()
