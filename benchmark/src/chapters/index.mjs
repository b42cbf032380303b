// The chapters of a run, in order. Each has a name for --only, and run(bench), which gives tables to
// bench.table.
import * as async from './async.mjs'
import * as pairs from './pairs.mjs'

export const chapters = [pairs, async]
