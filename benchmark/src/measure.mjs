// Measures contestants interleaved: a slice of each, in turn, in several rounds. What is compared has
// been measured within milliseconds of each other, on the same machine in the same mood.
import Table from 'cli-table3'

/** The middle of the values, and how far they spread: half of them lie within. */
function summary(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share) => sorted[Math.floor((sorted.length - 1) * share)]
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

/**
 * Nanoseconds an iteration of each contestant. `run(n)` makes n iterations; how many fill a slice is
 * found first.
 */
export async function race(contestants, { rounds, sliceMs }) {
  const counts = []
  for (const { run } of contestants) {
    let count = 1
    for (;;) {
      const begun = performance.now()
      await run(count)
      const took = performance.now() - begun
      if (took > sliceMs / 2) break
      count = Math.ceil(count * Math.min(Math.max(sliceMs / Math.max(took, 0.001), 2), 50))
    }
    counts.push(count)
  }
  const times = contestants.map(() => [])
  for (let round = 0; round < rounds; round++) {
    for (const [i, { run }] of contestants.entries()) {
      const begun = performance.now()
      await run(counts[i])
      times[i].push(((performance.now() - begun) * 1e6) / counts[i])
    }
  }
  return contestants.map(({ name, target }, i) => ({ name, target, ...summary(times[i]), rounds: times[i] }))
}

const format = (ns) => (ns < 10_000 ? `${ns.toFixed(0)} ns` : ns < 10_000_000 ? `${(ns / 1e3).toFixed(1)} µs` : `${(ns / 1e6).toFixed(1)} ms`)

/** A table of ratios against the contestant of that name. */
export function report(title, results, base) {
  const floor = results.find(({ name }) => name === base)
  const table = new Table({ head: [title, 'median', 'middle half', `× ${base}`, 'target'], style: { head: [], border: [] }, colAligns: ['left', 'right', 'right', 'right', 'right'] })
  for (const { name, median, low, high, target, rounds } of results) {
    // Round by round, as they were interleaved.
    const ratio = summary(rounds.map((value, i) => value / floor.rounds[i])).median
    table.push([name, format(median), `${format(low)} – ${format(high)}`, ratio.toFixed(2), target ?? ''])
  }
  console.log(table.toString())
}
