// Lists what pack.mjs has made: packages, versions, sizes, checksums, files.
import { readFileSync } from 'node:fs'
import Table from 'cli-table3'

const packages = JSON.parse(readFileSync(new URL('../../npm/release.json', import.meta.url), 'utf8'))
const style = { head: [], border: [] }
const table = new Table({ head: ['package', 'version', 'bytes packed', 'unpacked', 'os, cpu, libc', 'Node'], style })
for (const { name, version, size, unpackedSize, manifest } of packages) {
  const { os = [], cpu = [], libc = [], engines } = manifest
  table.push([name, version, size, unpackedSize, [...os, ...cpu, ...libc].join(', ') || 'any', engines.node])
}
console.log(table.toString())
for (const { name, sha256, tarball, files } of packages) {
  console.log(`\n${name}: ${tarball}\n  sha256 ${sha256}`)
  for (const { path, size } of files) console.log(`  ${String(size).padStart(7)} ${path}`)
}
