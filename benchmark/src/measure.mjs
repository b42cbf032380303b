// Measures contestants interleaved: a slice of each, in turn, in several rounds. What is compared has
// been measured within milliseconds of each other, on the same machine in the same mood.

/** The middle of the values, and how far they spread: half of them lie from low to high. */
export function summary(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share) => {
    const place = (sorted.length - 1) * share
    const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]]
    return below + (above - below) * (place % 1)
  }
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

/** Round by round, as they were interleaved: each value against that of the base in the same round. */
export const ratio = (values, base) => summary(values.map((value, round) => value / base[round]))

/** Runs each of `steps` once a round, and begins with another one each round: no step always has the same neighbour. */
export async function interleave(steps, rounds) {
  const results = steps.map(() => [])
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < steps.length; i++) {
      const turn = (round + i) % steps.length
      results[turn].push(await steps[turn]())
    }
  }
  return results
}

/** Many short slices rather than few long ones: most of them run undisturbed, even if the machine does other things, too. */
const CUTS = 5

/**
 * Nanoseconds an iteration of each contestant, round by round. `run(n)` makes n iterations; how many
 * fill a slice is found first, which warms it up, too.
 */
export async function race(contestants, settings) {
  const [rounds, sliceMs] = [settings.rounds * CUTS, settings.sliceMs / CUTS]
  const steps = []
  for (const { run } of contestants) {
    const time = async (count) => {
      const begun = performance.now()
      await run(count)
      return performance.now() - begun
    }
    let count = 1
    for (;;) {
      // The shortest of three: one that was disturbed would end the search too early.
      const took = Math.min(await time(count), await time(count), await time(count))
      if (took > sliceMs / 2) break
      count = Math.ceil(count * Math.min(Math.max(sliceMs / Math.max(took, 0.001), 2), 50))
    }
    steps.push(async () => ((await time(count)) * 1e6) / count)
  }
  const times = await interleave(steps, rounds)
  return contestants.map(({ name, aim }, i) => ({ name, aim, figures: { time: times[i] } }))
}

/** A loop of a synchronous operation, or of one that returns a promise. */
export const loop = (operation) => (count) => {
  for (let i = 0; i < count; i++) operation()
}
export const asyncLoop = (operation) => async (count) => {
  for (let i = 0; i < count; i++) await operation()
}
