// What the licences of the crates in a native module demand to be told: who wrote them, and on which terms.
import { execFileSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The crates that are linked into the module: the same on every Linux. */
function linked() {
  const arguments_ = ['metadata', '--format-version', '1', '--locked', '--filter-platform', 'x86_64-unknown-linux-gnu']
  const { packages, resolve } = JSON.parse(execFileSync('cargo', arguments_, { cwd: import.meta.dirname, encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'inherit'] }))
  const byId = new Map(packages.map((one) => [one.id, one]))
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]))
  const isMacro = (id) => byId.get(id).targets.some(({ kind }) => kind.includes('proc-macro'))
  const found = new Set(packages.filter(({ name }) => name === 'robust-lock-node').map(({ id }) => id))
  // A set is walked through what is added meanwhile, too.
  for (const id of found) {
    for (const { pkg, dep_kinds: kinds } of nodes.get(id).deps) {
      if (kinds.some(({ kind }) => kind === null) && !isMacro(pkg)) found.add(pkg)
    }
  }
  return [...found].map((id) => byId.get(id)).filter(({ source }) => source !== null).toSorted((a, b) => (a.name < b.name ? -1 : 1))
}

/** The text of the licence that it is taken under. Some crates name MIT and do not have its text. */
function terms({ name, license, authors, manifest_path: manifest }) {
  const folder = dirname(manifest)
  const file = ['LICENSE-MIT', 'LICENSE', 'LICENSE.md', 'COPYING'].find((one) => readdirSync(folder).includes(one))
  if (file !== undefined) return readFileSync(join(folder, file), 'utf8').trim()
  if (license !== 'MIT') throw new Error(`${name} has no text of its licence, ${license}`)
  return `Copyright ${authors.join(', ') || `the authors of ${name}`}\n\n${MIT}`
}

const MIT = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT,
TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.`

/** What the toolchain may link in beside the crates, and is not under Rust's or LLVM's terms. */
const TOOLCHAIN = `## libm of Rust's compiler-builtins (https://github.com/rust-lang/compiler-builtins): MIT

Copyright Alex Crichton, Amanieu d'Antras, Jorge Aparicio, Trevor Gross

${MIT}

## compiler-rt of zig (https://ziglang.org): MIT

Copyright Zig contributors

${MIT}`

export function notices() {
  const crates = linked()
  const title = ({ name, version, repository }) => `${name} ${version}${repository ? ` (${repository})` : ''}`
  const under = (one) => one.license.split(/ OR |\//).includes('Apache-2.0')
  return `# What is linked into this module

Under the Apache licence 2.0, whose text is the file LICENSE: the standard library of Rust (https://github.com/rust-lang/rust;
its libm: below), parts of LLVM's runtime libraries (https://llvm.org, with LLVM's exceptions), and

${crates.filter(under).map((one) => `- ${title(one)}`).join('\n')}

${TOOLCHAIN}

${crates.filter((one) => !under(one)).map((one) => `## ${title(one)}: ${one.license}\n\n${terms(one)}`).join('\n\n')}
`
}
