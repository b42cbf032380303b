// The long versions of the tests: `npm run soak -- [NAME…] [--seconds N] [--kills N]`.
// A soak is a program build/soak/NAME.soak.cjs. It takes the same options, prints its progress and a
// final line, and exits non-zero if anything was wrong. They run one after the other. NODE_BINARY names
// another node to run them with.
import { spawnSync } from 'node:child_process'
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

let failed = 0
for (const name of positionals.length > 0 ? positionals : all) {
  console.log(`== ${name}`)
  const program = new URL(`${name}.soak.cjs`, folder).pathname
  const { status } = spawnSync(process.env.NODE_BINARY || process.execPath, [program, '--seconds', values.seconds, '--kills', values.kills], { stdio: 'inherit' })
  if (status !== 0) failed++
}
console.log(failed === 0 ? 'all soaks passed' : `${failed} soaks failed`)
process.exit(failed === 0 ? 0 : 1)
