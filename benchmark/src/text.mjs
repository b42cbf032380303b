// Results as people read them: a table in the terminal, a table in Markdown, marked regions of a file.
import Table from 'cli-table3'

const SCALES = {
  ns: [['ns', 1], ['µs', 1e3], ['ms', 1e6], ['s', 1e9]],
  bytes: [['B', 1], ['KiB', 2 ** 10], ['MiB', 2 ** 20]],
  '/s': [['/s', 1]],
  count: [['', 1]],
}

const digits = (value) => (Number.isInteger(value) || Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(Math.abs(value) < 10 ? 2 : 1))

/** A number with its unit, in three or four digits. */
export function quantity(value, unit) {
  const scales = SCALES[unit]
  const [name, size] = scales.findLast(([, least]) => Math.abs(value) >= least) ?? scales[0]
  const text = name === 'ns' ? value.toFixed(value < 10 ? 1 : 0) : digits(value / size)
  return name.startsWith('/') || name === '' ? text : `${text} ${name}`
}

const aimText = ({ most, least, value }, unit) => {
  const bound = most ?? least
  return `${most === undefined ? '≥' : '≤'} ${value ? quantity(bound, unit) : bound}`
}

/** Heads and cells of a table, as text. */
export function cells({ labels, figures, rows, spread = true }) {
  const names = Object.keys(figures)
  const compared = rows.some((row) => row.ratio !== undefined)
  const aimed = rows.some((row) => row.aim !== undefined)
  const bases = new Set(rows.flatMap(({ against }) => against ?? []))
  const plural = bases.size > 1
  const heads = [...labels, ...names, compared ? (plural ? 'ratio' : `× ${[...bases][0]}`) : [], compared && spread ? 'middle half' : [], plural ? 'against' : [], aimed ? ['aim', ''] : []].flat()
  const body = rows.map((row) => {
    const of = row.of ?? names[0]
    const line = [...row.name, ...names.map((name) => (row.figures[name] === undefined ? '' : quantity(row.figures[name].median, figures[name])))]
    if (compared) line.push(row.ratio === undefined ? '' : digits(row.ratio.median))
    if (compared && spread) line.push(row.ratio === undefined ? '' : `${digits(row.ratio.low)} – ${digits(row.ratio.high)}`)
    if (plural) line.push(row.against ?? '')
    if (aimed) line.push(row.aim === undefined ? '' : aimText(row.aim, figures[of]), { true: 'met', false: 'missed' }[row.met] ?? '')
    return line
  })
  return { heads, body, words: labels.length }
}

/** How many aims are met, and which are not. */
export function verdict(tables) {
  const aimed = tables.flatMap((table) => table.rows.filter(({ met }) => met !== undefined).map((row) => ({ ...row, table })))
  const missed = aimed.filter(({ met }) => !met)
  const line = ({ table, name, of, aim, figures, ratio }) => {
    const figure = of ?? Object.keys(table.figures)[0]
    const unit = table.figures[figure]
    return `- ${[table.title, ...name].join(', ')}: ${aim.value ? quantity(figures[figure].median, unit) : digits(ratio.median)}, aim ${aimText(aim, unit)}`
  }
  return [`${aimed.length - missed.length} of ${aimed.length} aims are met${missed.length === 0 ? '.' : '; missed:'}`, ...missed.map(line)].join('\n')
}

/** To the terminal (stderr: stdout is for --json). */
export function print(table) {
  const { heads, body, words } = cells(table)
  const colAligns = heads.map((_, i) => (i < words ? 'left' : 'right'))
  const printed = new Table({ head: [table.title, ...heads.slice(1)].map((text) => text.replaceAll('`', '')), style: { head: [], border: [], compact: true }, colAligns })
  printed.push(...body.map((line) => line.map((text) => text.replaceAll('`', ''))))
  console.error(printed.toString())
}

export function markdown(table) {
  const { heads, body, words } = cells(table)
  const line = (texts) => `| ${texts.join(' | ')} |`
  return [line(heads), line(heads.map((_, i) => (i < words ? '---' : '---:'))), ...body.map(line)].join('\n')
}

/** Replaces what stands between `<!-- bench:id -->` and `<!-- /bench -->`. Regions that were not measured stay. */
export function fill(text, regions) {
  return text.replaceAll(/(<!-- bench:([\w-]+) -->\n)[^]*?(<!-- \/bench -->)/g, (whole, begin, id, end) => (regions[id] === undefined ? whole : `${begin}${regions[id]}\n${end}`))
}
