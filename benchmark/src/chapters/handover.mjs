// Processes that all want one lock, all the time, and hold it for nothing, 20 µs or 1 ms.
import { FIGURES, TITLES, rowOf, withCrews } from '../crew.mjs'
import { interleave, summary } from '../measure.mjs'
import { quantity } from '../text.mjs'

export const name = 'handover'

const CROWDS = [2, 4, 8]
const HOLDS_NS = [0, 20e3, 1e6]

/** Beside those of a crew: what an acquisition takes but for the hold, wherever that time goes. */
const ALL_FIGURES = { 'acquisitions/s': FIGURES['acquisitions/s'], 'between holds': 'ns', ...FIGURES }

const holdText = (hold) => (hold === 0 ? '0' : quantity(hold, 'ns'))

export async function run(bench) {
  const [rounds, ms] = bench.quick ? [1, 25] : [Math.min(bench.rounds, 5), 250]
  await withCrews(bench, Math.max(...CROWDS), async (crews) => {
    const entrants = crews.flatMap((crew) => crew.names.filter((entrant) => entrant !== 'none').map((entrant) => ({ crew, entrant })))
    const slices = HOLDS_NS.flatMap((hold) => CROWDS.flatMap((processes) => entrants.map(({ crew, entrant }) => ({ hold, processes, crew, entrant }))))
    const measured = await interleave(slices.map(({ hold, processes, crew, entrant }) => () => crew.contend(entrant, Array.from({ length: processes }, () => ({ hold })), ms)), rounds)
    const rows = slices.map(({ hold, processes, entrant }, i) => {
      const row = rowOf(entrant, measured[i])
      row.figures['between holds'] = row.figures['acquisitions/s'].map((rate) => 1e9 / rate - hold)
      return { ...row, hold, processes }
    })
    tell(bench, rows)
  })
}

/** A table per hold, of everything; and one of what is aimed at. */
function tell(bench, rows) {
  for (const hold of HOLDS_NS) {
    const all = rows.filter((row) => row.hold === hold)
    for (const row of all) {
      row.name = [`${row.processes} processes`, row.title]
      const gate = all.find(({ key, processes }) => key === 'gate' && processes === row.processes)
      if (row !== gate) row.base = gate
    }
    bench.table({ id: `handover-${hold / 1e3}`, title: `hand-over, holds of ${holdText(hold)}`, labels: ['', 'lock'], figures: ALL_FIGURES, rows: all })
  }
  const aims = []
  for (const processes of CROWDS) {
    for (const hold of HOLDS_NS) {
      const cell = rows.filter((row) => row.processes === processes && row.hold === hold)
      const of = (key) => cell.find((row) => row.key === key)
      const add = (key, base, aim) => {
        if (base !== undefined) aims.push({ name: [`${processes} processes`, holdText(hold), TITLES[key]], figures: of(key).figures, base, aim })
      }
      add('robust-lock/sync', of('gate'), { least: 0.8 })
      add('robust-lock/sync', of('bare/sync'))
      add('robust-lock/async', fastest(cell.filter(({ key }) => key.endsWith('/async') && !key.startsWith('robust-lock'))), { least: 5 })
    }
  }
  bench.table({ id: 'handover', title: 'hand-over', labels: ['', 'hold', 'lock'], figures: ALL_FIGURES, rows: aims })
}

function fastest(rows) {
  const rate = ({ figures }) => summary(figures['acquisitions/s']).median
  return rows.toSorted((a, b) => rate(b) - rate(a))[0]
}
