// Creating a segment, opening one that is there, and what they take of the memory.
import { rmSync, statSync } from 'node:fs'
import { openManager } from '../../../dist/index.cjs'
import { serve, withChild } from '../child.mjs'
import { summary } from '../measure.mjs'

export const name = 'segments'

const CAPACITIES = [2 ** 11, 2 ** 20]
const MODES = ['create', 'open']

export async function run(bench) {
  const each = bench.quick ? 2 : 20
  const rows = MODES.flatMap((mode) => CAPACITIES.map((capacity) => ({ mode, capacity, name: [mode, capacity.toLocaleString('en')], figures: { time: [] } })))
  for (let round = 0; round < bench.rounds; round++) {
    const paths = Array.from({ length: each + 1 }, (_, i) => CAPACITIES.map((capacity) => ({ capacity, path: bench.segment(`${i}-${capacity}`) }))).flat()
    for (const mode of MODES) {
      // A process maps what it has opened until it ends: a new one for each round.
      const times = await withChild(import.meta.url, (child) => child.ask({ mode, paths }))
      for (const row of rows) {
        // Not the first of a process: it loads the module and probes the kernel (see the chapter startup).
        if (row.mode === mode) row.figures.time.push(summary(times.filter((_, i) => i >= CAPACITIES.length && paths[i].capacity === row.capacity)).median)
      }
    }
    for (const { path } of paths) rmSync(path)
  }
  rows[1].base = rows[0]
  Object.assign(rows[2], { aim: { most: 300e3, value: true } })
  Object.assign(rows[3], { base: rows[2], aim: { most: 300e3, value: true } })
  bench.table({ id: 'segments', title: 'segments', labels: ['', 'ids'], figures: { time: 'ns' }, rows })
  memory(bench)
}

function memory(bench) {
  const rows = CAPACITIES.map((capacity) => {
    const path = bench.segment(`memory-${capacity}`)
    const manager = openManager({ path, mode: 'create', capacity })
    const committed = () => statSync(path).blocks * 512
    const fresh = committed()
    for (let i = 0; i < 2_048; i++) manager.allocateLock()
    return { name: capacity.toLocaleString('en'), figures: { created: [fresh], '2,048 allocated': [committed()] } }
  })
  bench.table({ id: 'memory', title: 'memory of a segment: ids', labels: ['ids'], figures: { created: 'bytes', '2,048 allocated': 'bytes' }, rows })
}

await serve(import.meta.url, ({ mode, paths }) =>
  paths.map(({ capacity, path }) => {
    const begun = performance.now()
    openManager({ path, mode, ...(mode === 'create' ? { capacity } : {}) })
    return (performance.now() - begun) * 1e6
  }),
)
