// A modest process, which wants the lock every 2 ms, beside greedy ones, which want it all the time.
import { FIGURES, rowOf, withCrews } from '../crew.mjs'
import { interleave } from '../measure.mjs'
import { quantity } from '../text.mjs'

export const name = 'victim'

const MODEST = { hold: 20e3, pause: 2e6 }
/** What they show is shown by ours. */
const LEFT_OUT = new Set(['gate', 'bare/sync'])
/** Those that are aimed at, and what they are compared with: a p99 takes rounds. Two are enough of the others. */
const CLOSELY = new Set(['plain', 'robust-lock/sync', 'robust-lock/async'])
const CELLS = [3, 7].flatMap((greedy) => [{ greedy, hold: 20e3, most: 0.1 }, { greedy, hold: 1e6, most: 0.33 }])

export async function run(bench) {
  const [rounds, ms] = bench.quick ? [1, 60] : [Math.min(bench.rounds, 7), 1_200]
  await withCrews(bench, 8, async (crews) => {
    const entrants = crews.flatMap((crew) => crew.names.filter((entrant) => !LEFT_OUT.has(entrant)).map((entrant) => ({ crew, entrant })))
    const slices = CELLS.flatMap((cell) => entrants.map((one) => ({ ...cell, ...one })))
    const steps = slices.map(({ greedy, hold, crew, entrant }) => {
      const plans = [MODEST, ...Array.from({ length: greedy }, () => ({ hold }))]
      let left = CLOSELY.has(entrant) ? rounds : 2
      return () => (left-- > 0 ? crew.contend(entrant, plans, ms, 1) : undefined)
    })
    const measured = (await interleave(steps, rounds)).map((figures) => figures.filter((figure) => figure !== undefined))
    const rows = slices.map(({ greedy, hold, most, entrant }, i) => ({ ...rowOf(entrant, measured[i]), greedy, hold, most }))
    for (const row of rows) {
      row.name = [`${row.greedy} greedy`, quantity(row.hold, 'ns'), row.title]
      row.plain = rows.find(({ greedy, hold, key }) => greedy === row.greedy && hold === row.hold && key === 'plain')
    }
    const figures = { p50: 'ns', p99: 'ns', longest: 'ns', 'acquisitions/s': '/s' }
    const isOurs = ({ key }) => key.startsWith('robust-lock')
    const compared = (row, of, aim) => (row === row.plain ? row : { ...row, base: row.plain, of, aim })
    bench.table({ id: 'victim', title: "a victim's wait", labels: ['beside', 'their hold', 'lock'], figures, rows: rows.map((row) => compared(row, 'p99', isOurs(row) ? { most: row.most } : undefined)) })
    bench.table({ id: 'victim-rate', title: 'the rate of all', labels: ['beside', 'their hold', 'lock'], figures: { 'acquisitions/s': FIGURES['acquisitions/s'] }, rows: rows.filter(isOurs).map((row) => compared(row, 'acquisitions/s', { least: 0.8 })) })
  })
}
