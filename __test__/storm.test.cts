// Random kills under load: `npm run soak -- storm --kills 10000 --seconds 3600` is the long version.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { suite } from './fixtures/suite.cjs'
import { patience } from './fixtures/within.cjs'

const test = suite('storm')
const LIMIT_S = 240 * patience
/** Fewer where each process takes ten seconds to start. */
const KILLS = 500 / patience

test('kills at random, beside stops and terminated Workers: nothing is wrong', () => {
  const program = join(__dirname, '..', 'soak', 'storm.soak.cjs')
  const args = [program, '--kills', String(KILLS), '--seconds', String(LIMIT_S)]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: LIMIT_S * 1000 + 30_000 })
  assert.is(status, 0, stdout + stderr)
  const figures = stdout.trim().split('\n').at(-1) ?? ''
  assert.match(figures, `: ${KILLS} kills, `)
  assert.match(figures, / 0 double holds, 0 stuck, 0 leaked, 0 unannounced deaths, 0 false alarms, 0 double allocations, 0 lost allocations$/)
  console.log(`\n${figures}`)
})

test.run()
