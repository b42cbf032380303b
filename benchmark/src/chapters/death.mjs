// From a holder's end inside its section to the first line of the next holder, which waits already.
import { setTimeout as sleep } from 'node:timers/promises'
import { Crew, Member, TITLES, groundOf, monotonic, program } from '../crew.mjs'
import { OURS } from '../peers.mjs'

export const name = 'death'

const AIM_NS = 5e6
/** Time for the waiter to be where it waits. */
const SETTLE_MS = 40

async function death(ground, waiter, entrant, way, limitMs) {
  const holder = new Member(process.execPath, [program('holder.mjs'), ...ground.args, entrant, way])
  try {
    await holder.answer()
    waiter.tell(`take ${entrant}`)
    await waiter.answer()
    await sleep(SETTLE_MS)
    let begun = monotonic()
    if (way === 'SIGKILL') holder.child.kill('SIGKILL')
    else {
      holder.tell('end')
      begun = Number(await holder.answer())
    }
    const had = await Promise.race([waiter.answer(), sleep(limitMs, 'late', { ref: false })])
    return had === 'late' ? undefined : Number(had) - begun
  } finally {
    await holder.end()
  }
}

export async function run(bench) {
  const [rounds, limitMs] = bench.quick ? [1, 1_000] : [Math.min(bench.rounds, 11), 15_000]
  const ground = groundOf(bench)
  let crew = await Crew.inNode(ground, 1)
  const entrants = crew.names.filter((entrant) => !entrant.startsWith('bare'))
  const cases = [
    ...entrants.map((entrant) => ({ entrant, way: 'SIGKILL' })),
    ...['process.exit()', 'worker.terminate()'].flatMap((way) => entrants.filter((entrant) => entrant.startsWith(OURS)).map((entrant) => ({ entrant, way }))),
  ].map((one) => ({ ...one, times: [], late: false }))
  try {
    for (let round = 0; round < rounds; round++) {
      for (const one of cases) {
        // Once is enough of what takes so long.
        if (one.times.some((time) => time > 1e9)) continue
        const time = await death(ground, crew.members[0], one.entrant, one.way, limitMs)
        one.times.push(time ?? limitMs * 1e6)
        if (time !== undefined) continue
        one.late = true
        await crew.end()
        crew = await Crew.inNode(ground, 1)
      }
    }
  } finally {
    await crew.end()
  }
  const rows = cases.map(({ entrant, way, times, late }) => ({
    key: `${entrant} ${way}`,
    name: [`\`${way}\``, `${TITLES[entrant]}${late ? ' (longer than that)' : ''}`],
    figures: { time: times, longest: [Math.max(...times)], times: [times.length] },
  }))
  for (const [i, { entrant, way }] of cases.entries()) {
    if (entrant.startsWith(OURS)) rows[i].aim = { most: AIM_NS, value: true }
    else rows[i].base = rows.find(({ key }) => key === `${OURS}/${entrant.split('/')[1]} ${way}`)
  }
  bench.table({ id: 'death', title: 'a holder ends by', labels: ['by', 'the next waits with'], figures: { time: 'ns', longest: 'ns', times: 'count' }, rows })
}
