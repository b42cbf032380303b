// RELIABILITY.md names a test for every fault: each of them is there.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { suite } from './fixtures/suite.cjs'

const test = suite('reliability')
const root = join(__dirname, '..', '..')
const read = (...path: string[]): string => readFileSync(join(root, ...path), 'utf8')

/** A Rust test program is a file, or a folder with its parts. */
function rustTests(program: string): string {
  const file = join('crates/core/tests', `${program}.rs`)
  return read(existsSync(join(root, file)) ? file : join('crates/core/tests', program, 'main.rs'))
}

const [, faults = ''] = read('RELIABILITY.md').split('\n## Every fault, and its test\n')
const rows = faults
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| fault ') && !line.startsWith('| --- '))

test('every fault has a test, and every test that is named exists', () => {
  assert.ok(rows.length > 30, `${rows.length} faults`)
  for (const row of rows) {
    const names = [...(row.split(' | ')[2] ?? '').matchAll(/`([^`]+)`/g)].map(([, name]) => name as string)
    assert.ok(names.length > 0, `a test is named in: ${row}`)
    for (const name of names) {
      const [, program, rust] = /^([a-z_]+)::([a-z0-9_]+)$/.exec(name) ?? []
      if (program !== undefined) {
        assert.match(rustTests(program), `#[test]\nfn ${rust}()`, name)
        continue
      }
      const [, file = '', title = ''] = /^([a-z-]+): (.+)$/.exec(name) ?? []
      const source = read('__test__', `${file}.test.cts`)
      const titles = [...source.matchAll(/\btest\((['"`])(.*?)\1, /g)].map(([, , title]) => title as string)
      assert.ok(titles.some((candidate) => candidate.endsWith(title)), `${name} is a test`)
    }
  }
})

test.run()
