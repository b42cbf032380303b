// The chapters of a run, in order. Each has a name for --only, and run(bench), which gives tables to
// bench.table.
import * as async from './async.mjs'
import * as death from './death.mjs'
import * as handover from './handover.mjs'
import * as late from './late.mjs'
import * as loop from './loop.mjs'
import * as pairs from './pairs.mjs'
import * as pool from './pool.mjs'
import * as resources from './resources.mjs'
import * as segments from './segments.mjs'
import * as startup from './startup.mjs'
import * as victim from './victim.mjs'

export const chapters = [pairs, async, pool, segments, loop, resources, startup, handover, victim, late, death]
