// Out of the results: the charts in results/, and the tables that BENCHMARKS.md and README.md show.
import { readFileSync, writeFileSync } from 'node:fs'
import { bars } from './chart.mjs'
import { FLOOR, OURS } from './peers.mjs'
import { fill, markdown, quantity, verdict } from './text.mjs'

const root = new URL('../../', import.meta.url)

export function publish({ machine, settings, missing, tables }) {
  const by = Object.fromEntries(tables.map((table) => [table.id, table]))
  const regions = Object.fromEntries(tables.map((table) => [table.id, markdown(table)]))
  regions.machine = [
    `Linux ${machine.kernel}, ${machine.arch}, ${machine.cpus} × ${machine.cpu}, Node ${machine.node.slice(1)}; ${settings.rounds} rounds, ${settings.seconds} s.`,
    ...missing.map(({ name, reason }) => `Not here: ${name} (${reason}).`),
  ].join('\n')
  regions.aims = verdict(tables).replace('\n', '\n\n')
  if (by['pairs'] && by['async']) regions.speed = markdown(speed(by))
  if (by['peers-sync'] && by['peers-async']) {
    regions.peers = markdown(peers(by))
    chart(by)
  }
  if (by['victim']) {
    chartOfVictim(by['victim'])
    regions['victim-chart'] = "![p99 of the victim's wait](benchmark/results/victim.svg)"
  }
  for (const name of ['BENCHMARKS.md', 'README.md']) {
    const file = new URL(name, root)
    writeFileSync(file, fill(readFileSync(file, 'utf8'), regions))
  }
}

/** How fast: what the README shows of the pairs. */
function speed({ pairs, async }) {
  const rows = [...pairs.rows, ...async.rows].filter(({ aim }) => aim !== undefined)
  return { labels: ['uncontended'], figures: pairs.figures, rows: rows.map((row) => ({ ...row, aim: undefined, against: 'a bare mutex in C' })), spread: false }
}

/** Ours and the peers, blocking and awaited: [how, row]. */
const contestants = (by) => [['blocking', 'peers-sync'], ['await', 'peers-async']].flatMap(([how, id]) => by[id].rows.filter(({ name }) => name[0] !== FLOOR).map((row) => [how, row]))

/** Against what: both tables of peers, in one. */
function peers(by) {
  const rows = contestants(by).map(([how, row]) => ({ ...row, aim: undefined, name: [how, ...row.name], against: row.against && OURS }))
  return { labels: ['', 'lock and unlock'], figures: by['peers-sync'].figures, rows, spread: false }
}

function chart(by) {
  const rows = contestants(by).map(([how, { name: [name], figures: { time } }]) => ({
    name: `${name.replaceAll('`', '')}, ${how}`,
    value: time.median,
    text: quantity(time.median, 'ns'),
    ours: name.startsWith(OURS),
  }))
  writeFileSync(new URL('benchmark/results/peers.svg', root), bars('One lock and unlock that nobody else wants (logarithmic)', rows))
}

/** The longest bars are the locks that starve a modest process. */
function chartOfVictim({ rows }) {
  const all = rows.filter(({ name: [greedy, hold] }) => greedy === '3 greedy' && hold === '1 ms')
  const bar = ({ name, figures: { p99 } }) => ({ name: name.at(-1).replaceAll(/[`*]/g, ''), value: p99.median, text: quantity(p99.median, 'ns'), ours: name.at(-1).startsWith('robust-lock') })
  writeFileSync(new URL('benchmark/results/victim.svg', root), bars('A modest process waits beside three that hold the lock for 1 ms each: p99 (logarithmic)', all.map(bar)))
}
