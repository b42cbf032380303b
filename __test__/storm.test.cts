// The short version of the storm: `npm run soak -- storm --seconds 3600` is the long one.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { suite } from './fixtures/suite.cjs'

const test = suite('storm')

test('kills, stops and continues at random: no double hold, nothing stuck, nothing unannounced', () => {
  const program = join(__dirname, '..', 'soak', 'storm.soak.cjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, '--seconds', '8'], { encoding: 'utf8' })
  assert.is(status, 0, stdout + stderr)
  assert.match(stdout, / 0 double holds, 0 unannounced deaths, 0 stuck/)
})

test.run()
