// The long versions of the tests: `npm run soak -- [NAME…] [--seconds N] [--kills N]`.
// A soak is a program build/soak/NAME.soak.cjs. It takes the same options, prints its progress and a
// line at the end, sends its figures here, and exits non-zero if anything was wrong. They run one after
// the other. The final line adds up what they have counted. NODE_BINARY names another node to run them with.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string', default: '60' }, kills: { type: 'string', default: '20000' } },
})
for (const [name, value] of Object.entries(values)) {
  if (!/^[1-9][0-9]*$/.test(value)) {
    console.error(`--${name} takes a positive number, not ${value}`)
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

const totals = { kills: 0, acquisitions: 0, 'double holds': 0, stuck: 0, leaked: 0, 'unannounced deaths': 0 }

/** Runs one, and adds its figures up; whether it says that nothing was wrong. */
function run(name) {
  console.log(`== ${name}`)
  const program = new URL(`${name}.soak.cjs`, folder).pathname
  const args = [program, '--seconds', values.seconds, '--kills', values.kills]
  const soak = spawn(process.env.NODE_BINARY || process.execPath, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
  soak.on('message', (figures) => {
    for (const what of Object.keys(totals)) totals[what] += figures[what] ?? 0
  })
  return new Promise((resolve) => {
    soak.on('error', (error) => console.error(`${name}: ${error.message}`))
    soak.on('close', (code) => resolve(code === 0))
  })
}

let failed = 0
for (const name of positionals.length > 0 ? positionals : all) {
  if (!(await run(name))) failed++
}
const counted = Object.entries(totals).map(([what, figure]) => `${figure} ${what}`).join(', ')
console.log(`${failed === 0 ? 'all soaks passed' : `${failed} soaks failed`}: ${counted}`)
process.exit(failed === 0 ? 0 : 1)
