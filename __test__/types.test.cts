// The declarations, as programs that import the package compile against them.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { suite } from './fixtures/suite.cjs'

const test = suite('types')
const root = join(__dirname, '..', '..')

const STRICT = {
  target: 'es2022',
  strict: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: false,
  noEmit: true,
  typeRoots: [join(root, 'node_modules', '@types')],
}
/** `using` is nothing that a program's own lib must know of: the declarations bring it along. */
const settings: [string, object][] = [
  ['node16, with the types of Node', { module: 'node16', lib: ['es2022'], types: ['node'] }],
  ['a bundler, with the types of Node', { module: 'esnext', moduleResolution: 'bundler', lib: ['es2022'], types: ['node'] }],
  ['a bundler, with those of a browser', { module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [] }],
]

test('a program compiles, and its mistakes are found', () => {
  const project = mkdtempSync(join(tmpdir(), 'robust-lock-types-'))
  try {
    const installed = join(project, 'node_modules', 'robust-lock')
    mkdirSync(installed, { recursive: true })
    cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true })
    cpSync(join(root, 'package.json'), join(installed, 'package.json'))
    const files = ['consumer.ts', 'consumer.mts', 'consumer.cts']
    for (const file of files) cpSync(join(root, '__test__', 'fixtures', 'consumer.mts'), join(project, file))
    for (const [title, options] of settings) {
      writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions: { ...STRICT, ...options }, files }))
      const { status, stdout } = spawnSync(join(root, 'node_modules', '.bin', 'tsc'), ['-p', project], { encoding: 'utf8' })
      assert.is(stdout, '', title)
      assert.is(status, 0, title)
    }
  } finally {
    rmSync(project, { recursive: true, force: true })
  }
})

test.run()
