// Allocating an id and giving it back, wherever the first free one is: against Podman's way.
import { openManager } from '../../../dist/index.cjs'
import { loop, race } from '../measure.mjs'

export const name = 'pool'

const FILLS = { empty: () => 0, '50 %': (capacity) => capacity / 2, '99.9 %': (capacity) => Math.floor(capacity * 0.999), 'the last one': (capacity) => capacity - 1 }

export async function run(bench) {
  const firstFit = bench.compile('firstfit', { module: true })
  const contestants = []
  for (const capacity of [2 ** 11, 2 ** 14, 2 ** 17, 2 ** 20]) {
    for (const [fill, count] of Object.entries(FILLS)) {
      const taken = count(capacity)
      const manager = openManager({ path: bench.segment(`pool-${capacity}-${taken}`), mode: 'create', capacity, inUse: Array.from({ length: taken }, (_, id) => id) })
      const number = contestants.length
      firstFit.open(number, taken)
      contestants.push(
        { name: [capacity.toLocaleString('en'), fill], run: loop(() => manager.allocateLock().free()) },
        { run: loop(() => firstFit.free(number, firstFit.allocate(number, capacity))) },
      )
    }
  }
  // So many contestants need no long slices.
  const results = await race(contestants, { rounds: bench.rounds, sliceMs: bench.sliceMs / 2 })
  const rows = []
  for (let i = 0; i < results.length; i += 2) {
    const [ours, theirs] = [results[i].figures.time, results[i + 1].figures.time]
    rows.push({ name: results[i].name, figures: { 'robust-lock': ours, 'first fit': theirs, '× first fit': ours.map((time, round) => time / theirs[round]) } })
  }
  for (const [i, row] of rows.entries()) if (i > 0) Object.assign(row, { base: rows[0], aim: { most: 3 } })
  bench.table({ id: 'pool', title: 'allocate, free: ids', labels: ['ids', 'allocated'], figures: { 'robust-lock': 'ns', 'first fit': 'ns', '× first fit': 'count' }, rows })
}
