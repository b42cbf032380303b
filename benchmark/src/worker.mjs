// A process of a crew. It opens every peer that is here, says which, and answers lines:
//   contend NAME BEGIN END HOLD PAUSE LATE   → how often it held the lock, how often before the end,
//                                              its longest wait, the histogram
//   take NAME                                → "asking", and then when it had the lock
// Times are on CLOCK_MONOTONIC, in ns.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { monotonic } from './contend.mjs'
import { OURS, peers } from './peers.mjs'

const [, , module, page, parent, folder, segment] = process.argv
const shared = createRequire(import.meta.url)(module)
shared.bind(Number(parent))
const cells = new Int32Array(shared.map(page))
const say = (line) => process.stdout.write(`${line}\n`)

/** The mutex and its gate in C, with nothing around them but Node-API. */
const bare = () => ({
  sync(inside) {
    shared.lock()
    inside()
    shared.unlock()
  },
})
/** proper-lockfile cannot wait without `await`. */
const WITHOUT = new Set(['proper-lockfile/sync'])

const entrants = {}
const absent = []
for (const [name, open] of Object.entries({ [OURS]: peers[OURS], bare, ...peers })) {
  try {
    const opened = await open(folder, segment)
    for (const mode of ['sync', 'async']) {
      const entrant = `${name}/${mode}`
      if (opened[mode] === undefined || WITHOUT.has(entrant)) continue
      const { contend } = await import(`./contend.mjs?${encodeURIComponent(entrant)}`)
      entrants[entrant] = { section: opened[mode], isAsync: mode === 'async', contend }
    }
  } catch (error) {
    absent.push([name, String(error.message)])
  }
}
say(JSON.stringify({ names: Object.keys(entrants), absent }))

for await (const line of createInterface({ input: process.stdin })) {
  const [what, name, ...numbers] = line.split(' ')
  const { section, isAsync, contend } = entrants[name]
  if (what === 'contend') {
    const [begin, end, hold, pause, late] = numbers.map(Number)
    const { held, inTime, longest, counts } = await contend(section, isAsync, cells, { begin, end, hold, pause, late })
    say(`${held} ${inTime} ${Math.round(longest)} ${counts.join(' ')}`)
  } else {
    let had
    say('asking')
    await section(() => (had = monotonic()))
    say(had)
  }
}
process.exit()
