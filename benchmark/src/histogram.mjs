// Waits, counted in buckets of a sixteenth of an octave, from 64 ns on: crew.c counts them in the same way.
export const BUCKETS = 512
const [FIRST_NS, AN_OCTAVE] = [64, 16]

export const bucketOf = (ns) => (ns < FIRST_NS ? 0 : Math.min(1 + Math.floor(Math.log2(ns / FIRST_NS) * AN_OCTAVE), BUCKETS - 1))

/** The quantile in ns, to within 2.2 %: the middle of its bucket. */
export function quantile(counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0)
  let left = Math.max(Math.ceil(total * share), 1)
  for (const [bucket, count] of counts.entries()) {
    left -= count
    if (left <= 0) return bucket === 0 ? FIRST_NS / 2 : FIRST_NS * 2 ** ((bucket - 0.5) / AN_OCTAVE)
  }
  return NaN
}
