// What the library adds to a process that starts: the import, and the first segment.
import { execFileSync } from 'node:child_process'
import { openManager } from '../../../dist/index.cjs'
import { interleave } from '../measure.mjs'

export const name = 'startup'

export async function run(bench) {
  const path = bench.segment('startup')
  openManager({ path, mode: 'create' })
  const library = JSON.stringify(new URL('../../../dist/index.cjs', import.meta.url))
  const programs = {
    '`node -e 0`': '0',
    'and the import': `import(${library})`,
    'and the first `openManager`': `import(${library}).then(({ openManager }) => openManager({ path: ${JSON.stringify(path)} }))`,
  }
  const time = (program) => () => {
    const begun = performance.now()
    execFileSync(process.execPath, ['-e', program])
    return (performance.now() - begun) * 1e6
  }
  const times = await interleave(Object.values(programs).map(time), bench.quick ? 2 : Math.max(bench.rounds, 25))
  const rows = Object.keys(programs).map((title, i) => ({ name: title, figures: { time: times[i], more: times[i].map((value, round) => value - times[0][round]) } }))
  delete rows[0].figures.more
  for (const row of rows.slice(1)) row.base = rows[0]
  bench.table({ id: 'startup', title: 'a fresh process', figures: { time: 'ns', more: 'ns' }, rows })
}
