// Checks native modules before they are released:
//
//   node scripts/release/check-binary.mjs [FILE …]
//
// Without files: every robust-lock.PLATFORM.node in the repository's root. It reads ELF with binutils'
// readelf, which knows every architecture. What a module may need is what every system of its kind has.
import { execFileSync } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import Table from 'cli-table3'

const root = resolve(import.meta.dirname, '../..')
/** In bytes. Where pages, or instructions, are larger, so may the file be. */
const LARGEST = { x64: 600_000, other: 800_000 }
/** The oldest glibc that the linker knows for the platform: 2.17 where it can be (CentOS 7). */
const GLIBC = {
  'linux-x64-gnu': '2.17',
  'linux-arm64-gnu': '2.17',
  'linux-arm-gnueabihf': '2.17',
  'linux-s390x-gnu': '2.17',
  'linux-ppc64-gnu': '2.19',
  'linux-riscv64-gnu': '2.27',
}
const MACHINE = {
  x64: ['Advanced Micro Devices X86-64', 'ELF64', 'little'],
  arm64: ['AArch64', 'ELF64', 'little'],
  arm: ['ARM', 'ELF32', 'little'],
  ppc64: ['PowerPC64', 'ELF64', 'little'],
  riscv64: ['RISC-V', 'ELF64', 'little'],
  s390x: ['IBM S/390', 'ELF64', 'big'],
}
const LIBRARIES = /^(libc|libm|libpthread|libdl|libgcc_s)\.so(\.\d+)?$/
const MUSL_LIBRARIES = /^(libc\.so|libc\.musl-[a-z0-9_]+\.so\.1|libgcc_s\.so\.1)$/

const olderFirst = (a, b) => a.localeCompare(b, 'en', { numeric: true })
const matches = (text, pattern) => [...text.matchAll(pattern)].map((match) => match[1])

function check(file) {
  const name = basename(file)
  const platform = /^robust-lock\.(linux-[a-z0-9]+-[a-z]+)\.node$/.exec(name)?.[1]
  if (platform === undefined) return { name, faults: ['its name names no platform'] }
  const [, arch, abi] = platform.split('-')
  const read = (...flags) => execFileSync('readelf', ['--wide', ...flags, file], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } })
  const [header, sections, dynamic, symbols, segments] = [read('-h'), read('-S'), read('-d'), read('--dyn-syms'), read('-l')]

  const faults = []
  const demand = (fine, fault) => fine || faults.push(fault)

  const [machine, size32or64, order] = MACHINE[arch] ?? []
  demand(matches(header, /Machine: +(.+)/g)[0] === machine, `it is made for ${matches(header, /Machine: +(.+)/g)[0]}`)
  demand(matches(header, /Class: +(\S+)/g)[0] === size32or64 && header.includes(`${order} endian`), 'its word size or byte order is another one')

  const { size } = statSync(file)
  const largest = LARGEST[arch] ?? LARGEST.other
  demand(size <= largest, `it has more than ${largest} bytes`)
  demand(!/ \.symtab /.test(sections), 'it is not stripped')

  const libraries = matches(dynamic, /\(NEEDED\).*\[(.+)\]/g)
  const allowed = abi === 'musl' ? MUSL_LIBRARIES : LIBRARIES
  for (const library of libraries) demand(allowed.test(library), `it needs ${library}`)
  demand(!/\((RPATH|RUNPATH)\)/.test(dynamic), 'it looks for libraries in a folder of the machine that made it')
  demand(!/\(TEXTREL\)/.test(dynamic), 'its code is changed when it is loaded')
  demand(!/GNU_STACK.* RWE /.test(segments), 'it wants an executable stack')

  const versions = [...new Set(matches(symbols, /@+GLIBC_([0-9.]+)/g))].toSorted(olderFirst)
  const floor = versions.at(-1) ?? ''
  demand((floor !== '') === (abi !== 'musl'), abi === 'musl' ? 'it is linked against glibc' : 'it is not linked against glibc')
  if (abi !== 'musl') demand(olderFirst(floor, GLIBC[platform] ?? '0') <= 0, `it needs glibc ${floor}, and ${GLIBC[platform]} can be had`)
  // glibc has it since 2.30, musl not at all: so it is looked up when the module is loaded.
  demand(!/ UND pthread_mutex_clocklock/.test(symbols), 'it is bound to pthread_mutex_clocklock')
  // ppc64 has a word of its own between visibility and section.
  demand(/ (GLOBAL|WEAK) +\w+ +(\[.*\] +)?\d+ napi_register_module_v1\b/.test(symbols), 'Node would find no entry point')
  return { name, size, floor, libraries, faults }
}

const given = process.argv.slice(2)
const files = given.length > 0 ? given : readdirSync(root).filter((file) => /^robust-lock\..*\.node$/.test(file)).map((file) => join(root, file))
if (files.length === 0) {
  console.error('there is nothing to check: npm run build')
  process.exit(2)
}
const table = new Table({ head: ['module', 'bytes', 'glibc', 'needs', 'faults'], style: { head: [], border: [] }, wordWrap: true, colWidths: [40, 9, 7, 30, 40] })
const reports = files.toSorted().map(check)
for (const { name, size, floor, libraries, faults } of reports) {
  table.push([name, size ?? '', floor ?? '', libraries?.join(' ') ?? '', faults.join('; ')])
}
console.log(table.toString())
process.exitCode = reports.every(({ faults }) => faults.length === 0) ? 0 : 1
