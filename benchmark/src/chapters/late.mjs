// Four processes want one lock all the time, and the event loop of one of them is late each time. A program in C has no
// event loop: there one of the four comes that late for each turn.
import { TITLES, withCrews } from '../crew.mjs'
import { interleave } from '../measure.mjs'
import { quantity } from '../text.mjs'

export const name = 'late'

const OURS = 'robust-lock/async'
const CELLS = [20e3, 1e6].flatMap((hold) => [20e6, 200e6].map((late) => ({ hold, late })))

/** The late one is the first. */
const crowd = (hold, how) => [{ hold, ...how }, ...Array.from({ length: 3 }, () => ({ hold }))]

export async function run(bench) {
  const [rounds, ms] = bench.quick ? [1, 60] : [Math.min(bench.rounds, 5), 2_000]
  await withCrews(bench, 4, async ([inC, inNode]) => {
    const slices = CELLS.flatMap(({ hold, late }) => [
      { hold, late, key: 'none', crew: inC, how: { pause: late } },
      { hold, late, key: 'plain', crew: inC, how: { pause: late } },
      { hold, late, key: OURS, crew: inNode, how: {}, prompt: true },
      { hold, late, key: OURS, crew: inNode, how: { late } },
    ])
    const steps = slices.map(({ hold, key, crew, how }) => {
      let left = key === OURS ? rounds : 2
      return () => (left-- > 0 ? crew.contend(key, crowd(hold, how), ms, 1) : undefined)
    })
    const measured = (await interleave(steps, rounds)).map((figures) => figures.filter((figure) => figure !== undefined))
    const rows = slices.map(({ hold, late, key, prompt }, i) => {
      const figures = (of) => measured[i].map((slice) => slice[of])
      const how = prompt ? 'all in time' : 'one late'
      return {
        hold,
        late,
        key,
        prompt,
        name: [`${quantity(late, 'ns')} late`, quantity(hold, 'ns'), key === OURS ? `${TITLES[key]}, ${how}` : TITLES[key]],
        figures: { longest: figures('longest'), "others' p99": figures('others'), 'acquisitions/s': figures('rate') },
      }
    })
    tell(bench, rows)
  })
}

function tell(bench, rows) {
  const labels = ['', 'hold', 'lock']
  const itsOwn = (row) => row.key === OURS && !row.prompt
  const intime = ({ hold, late }) => rows.find((row) => row.prompt && row.hold === hold && row.late === late)
  bench.table({
    id: 'late',
    title: "a late one's longest wait",
    labels,
    figures: { longest: 'ns', "others' p99": 'ns', 'acquisitions/s': '/s' },
    rows: rows.map((row) => (itsOwn(row) ? { ...row, of: 'longest', aim: { most: 2 * row.late, value: true } } : row)),
  })
  for (const [id, title, of, unit, aim] of [
    ['late-rate', 'the rate of all, one late', 'acquisitions/s', '/s', { least: 0.85 }],
    ['late-others', "the others' p99, one late", "others' p99", 'ns', { most: 2 }],
  ]) {
    bench.table({ id, title, labels, figures: { [of]: unit }, rows: rows.filter(itsOwn).map((row) => ({ ...row, name: [...row.name.slice(0, 2), TITLES[OURS]], base: intime(row), of, aim })) })
  }
}
