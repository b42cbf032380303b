// The long versions of the tests: `npm run soak -- [NAME…] [--seconds N] [--kills N]`. Without names: all of
// them, a minute each; or with --kills those that kill at random, so many raw processes and a fortieth of
// that in Node, however long it takes. Some have parts, which --part and --only choose from: they say it.
// A soak is a program build/soak/NAME.soak.cjs. It takes the same options, prints its progress and a
// line at the end, sends its figures here, and exits non-zero if anything was wrong. They run one after
// the other. The final line adds up what they have counted; an interrupt (Ctrl-C) lets the one that runs
// come to its end, and leaves out the rest. NODE_BINARY names another node to run them with.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string' }, kills: { type: 'string' }, part: { type: 'string' }, only: { type: 'string' } },
})
const FORMS = { seconds: [/^[1-9][0-9]*$/, 'a positive number'], kills: [/^[1-9][0-9]*$/, 'a positive number'], part: [/^[1-9][0-9]*\/[1-9][0-9]*$/, 'a part, as 3/16'], only: [/./, 'a text'] }
for (const [name, value] of Object.entries(values)) {
  const [form, what] = FORMS[name]
  if (!form.test(value)) {
    console.error(`--${name} takes ${what}, not ${value}`)
    process.exit(2)
  }
}

const folder = new URL('../build/soak/', import.meta.url)
const all = readdirSync(folder).filter((file) => file.endsWith('.soak.cjs')).map((file) => file.slice(0, -'.soak.cjs'.length)).toSorted()
const unknown = positionals.filter((name) => !all.includes(name))
if (unknown.length > 0) {
  console.error(`no soak of the name ${unknown.join(', ')}; there are ${all.join(', ')}`)
  process.exit(2)
}

/** What --kills alone runs, with which share of the kills: that of the tests. */
const RANDOM = { kills: 1, storm: 1 / 40 }
const isRandom = positionals.length === 0 && values.kills !== undefined
const chosen = isRandom ? Object.keys(RANDOM) : positionals.length > 0 ? positionals : all
// Whoever asks for a number of kills, or for a part, gets the whole of it, unless he also says for how long.
const isWhole = values.kills !== undefined || values.part !== undefined
const { kills = isWhole ? '1000000' : '20000', seconds = isWhole ? '1000000' : '60' } = values
const totals = { kills: 0, acquisitions: 0, 'double holds': 0, stuck: 0, leaked: 0, 'unannounced deaths': 0 }

let soak
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    interrupted = true
    soak?.kill('SIGINT')
  })
}

/** Runs one, and adds its figures up; whether it says that nothing was wrong. */
function run(name) {
  console.log(`== ${name}`)
  const program = new URL(`${name}.soak.cjs`, folder).pathname
  const its = isRandom ? String(Math.ceil(Number(kills) * RANDOM[name])) : kills
  const args = [program, '--seconds', seconds, '--kills', its]
  for (const option of ['part', 'only']) if (values[option] !== undefined) args.push(`--${option}`, values[option])
  soak = spawn(process.env.NODE_BINARY || process.execPath, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
  soak.on('message', (figures) => {
    for (const what of Object.keys(totals)) totals[what] += figures[what] ?? 0
  })
  return new Promise((resolve) => {
    soak.on('error', (error) => console.error(`${name}: ${error.message}`))
    soak.on('close', (code) => resolve(code === 0))
  })
}

let failed = 0
for (const name of chosen) {
  if (!interrupted && !(await run(name))) failed++
}
const counted = Object.entries(totals).map(([what, figure]) => `${figure} ${what}`).join(', ')
const verdict = failed > 0 ? `${failed} soaks failed` : interrupted ? 'interrupted, nothing was wrong so far' : 'all soaks passed'
console.log(`${verdict}: ${counted}`)
process.exit(failed > 0 ? 1 : interrupted ? 130 : 0)
