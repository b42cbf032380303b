// Waits, counted in units of 16 ns, in buckets of a sixteenth of their octave; below 16 units, one each. No
// logarithm: counting must cost little beside a lock. crew.c does the same.
export const BUCKETS = 448
const UNIT_NS = 16

export function bucketOf(ns) {
  const units = Math.min(ns / UNIT_NS, 2 ** 31 - 1) | 0
  if (units < 16) return units
  const octave = 31 - Math.clz32(units)
  return (octave - 3) * 16 + ((units >>> (octave - 4)) & 15)
}

/** The quantile in ns: the middle of its bucket, so to within 3 %. */
export function quantile(counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0)
  let left = Math.max(Math.ceil(total * share), 1)
  for (const [bucket, count] of counts.entries()) {
    left -= count
    if (left > 0) continue
    const octave = Math.max(bucket >> 4, 1) + 3
    const [first, width] = bucket < 16 ? [bucket, 1] : [(16 + (bucket & 15)) * 2 ** (octave - 4), 2 ** (octave - 4)]
    return (first + width / 2) * UNIT_NS
  }
  return NaN
}
