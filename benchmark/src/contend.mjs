// One slice of one contestant. Imported once per contestant, under a name of its own (`?lmdb`), so that the
// compiler sees one kind of section in each copy.
// Not the global one, which is a getter: looking it up takes as long as asking it.
import { performance } from 'node:perf_hooks'
import { BUCKETS, bucketOf } from './histogram.mjs'

const idle = new Int32Array(new SharedArrayBuffer(4))
const now = () => performance.now() * 1e6
export const monotonic = () => Number(process.hrtime.bigint())
/** Of performance.now(), on CLOCK_MONOTONIC, which all processes share: the try that was not interrupted. */
const origin = Math.max(...Array.from({ length: 50 }, () => monotonic() - now()))
const block = (ns) => Atomics.wait(idle, 0, 0, ns / 1e6)

let [cells, hold, over] = [undefined, 0, 0]
let counts = []
let [held, inTime, longest, asked] = [0, 0, 0, 0]

/**
 * The section. `cells[0]` is read at its beginning and written at its end: if somebody else was inside
 * meanwhile, a count is missing in the end.
 */
function inside() {
  const since = now()
  const seen = cells[0]
  const waited = since - asked
  counts[bucketOf(waited)]++
  if (waited > longest) longest = waited
  held++
  if (since < over) inTime++
  if (hold > 0) while (now() - since < hold);
  cells[0] = seen + 1
}

/** An event loop that is late by so many ns in each turn, until the time is over. */
function beLate(ns) {
  block(ns)
  if (now() < over) setImmediate(beLate, ns)
}

/**
 * From `begin` to `end` (CLOCK_MONOTONIC) it takes the lock, holds it for so long, and pauses, while its event loop is
 * late each time; all in ns.
 */
export async function contend(section, isAsync, sharedCells, { begin, end, hold: holdNs, pause, late }) {
  ;[cells, hold, over] = [sharedCells, holdNs, end - origin]
  counts = Array.from({ length: BUCKETS }, () => 0)
  ;[held, inTime, longest] = [0, 0, 0]
  const early = begin - monotonic()
  if (early > 0) block(early)
  if (late > 0) setImmediate(beLate, late)
  while ((asked = now()) < over) {
    if (isAsync) await section(inside)
    else section(inside)
    if (pause === 0) continue
    if (isAsync) await new Promise((resolve) => setTimeout(resolve, pause / 1e6))
    else block(pause)
  }
  return { held, inTime, longest, counts }
}
