// What a chapter works with: settings, a folder, segments that are cleared away, and the tables that it
// fills.
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, release, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createRequire } from 'node:module'
import { execFileSync, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { ratio, summary } from './measure.mjs'
import { print } from './text.mjs'

const require = createRequire(import.meta.url)

/**
 * Removes these when this process has ended, however it ends: a shell waits for the end of its input, which this
 * process alone keeps open.
 */
function removeInTheEnd(folders) {
  const shell = spawn('/bin/sh', ['-c', 'read -r _; rm -rf -- "$@"', 'sh', ...folders], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  shell.unref()
  shell.stdin.unref()
}

export class Bench {
  tables = []
  missing = []

  /** `quick`: all that is done, is done, but hardly measured. */
  constructor({ rounds, sliceMs, quick }) {
    Object.assign(this, { rounds, sliceMs, quick })
    this.folder = mkdtempSync(join(tmpdir(), 'robust-lock-benchmark-'))
    /** On a tmpfs. */
    this.memory = mkdtempSync('/dev/shm/robust-lock-benchmark-')
    removeInTheEnd([this.folder, this.memory])
  }

  /** A path for a segment, which is gone when the run ends. */
  segment(name) {
    return join(this.memory, name)
  }

  /** Compiles one of the C files beside this one: a program, or with `module` a Node-API module. */
  compile(name, { module = false } = {}) {
    const output = join(this.folder, module ? `${name}.node` : name)
    const headers = dirname(require.resolve('node-api-headers/include/node_api.h'))
    const source = fileURLToPath(new URL(`${name}.c`, import.meta.url))
    // A missing compiler ends the run: without the floor there is nothing to compare with.
    execFileSync('cc', ['-O2', '-pthread', '-I', headers, ...(module ? ['-shared', '-fPIC'] : []), '-o', output, source, '-lm'])
    return module ? require(output) : output
  }

  /** A contestant that cannot take part here is named, with the reason. */
  absent(name, error) {
    // In one line, and without this machine's folders: it is published.
    const reason = String(error?.message ?? error).replaceAll(/\/\S*\/node_modules\//g, '').replaceAll(/\s+/g, ' ').slice(0, 160)
    if (this.missing.some((one) => one.name === name)) return
    this.missing.push({ name, reason })
    console.error(`not here: ${name} (${reason})`)
  }

  /**
   * Takes a table in and prints it. `figures` names its columns and their units. Each row has a name (or
   * several, as `labels` says), its figures round by round, `of`, the figure that is compared (the first one),
   * the row that it is compared with (`base`), and an aim: {most} or {least} for the ratio, or with `value: true` for the
   * figure itself.
   */
  table({ id, title, labels = [''], figures, rows }) {
    const [first] = Object.keys(figures)
    const table = { id, title, labels, figures, rows: rows.map((row) => {
      const { name, base, of = first, aim } = row
      const result = { name: [name].flat(), figures: {} }
      for (const [figure, values] of Object.entries(row.figures)) result.figures[figure] = { ...summary(values), rounds: values }
      if (row.of !== undefined || base !== undefined) result.of = of
      if (base !== undefined) {
        result.against = [base.name].flat().at(-1)
        result.ratio = ratio(row.figures[of], base.figures[of])
      }
      if (aim !== undefined) {
        const { median } = aim.value ? result.figures[of] : result.ratio
        result.aim = aim
        if (!this.quick) result.met = aim.most === undefined ? median >= aim.least : median <= aim.most
      }
      return result
    }) }
    this.tables.push(table)
    print(table)
  }

  /** What has come out. */
  result() {
    const { missing, tables } = this
    const machine = { cpu: cpus()[0]?.model, cpus: cpus().length, kernel: release().split('-')[0], arch: process.arch, node: process.version, v8: process.versions.v8 }
    return { machine, missing, tables }
  }

  end() {
    for (const folder of [this.folder, this.memory]) rmSync(folder, { recursive: true, force: true })
  }
}
