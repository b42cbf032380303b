// All mutations, and whether each still has its place in the code and its test.
import { existsSync, readFileSync } from 'node:fs'
import { core } from './core.mjs'
import { facade } from './facade.mjs'

export const mutations = [...core.map(([name, file, ...rest]) => [name, `crates/core/src/${file}`, ...rest]), ...facade]

const at = (path) => new URL(`../../${path}`, import.meta.url)
const read = (path) => readFileSync(at(path), 'utf8')

/** Rust tests have names, those of the facade have titles. */
export function isOfFacade([, , , , , test]) {
  return /[A-Z ]/.test(test)
}

/** What is wrong with a mutation's place or its test; undefined if nothing is. */
export function misplaced(mutation) {
  const [, path, from, , file, test] = mutation
  const places = read(path).split(from).length - 1
  if (places !== 1) return `its place stands ${places} times in ${path}`
  const rust = `crates/${path.startsWith('crates/node') ? 'node' : 'core'}/tests/${file}`
  const tests = isOfFacade(mutation) ? `__test__/${file}.test.cts` : existsSync(at(`${rust}.rs`)) ? `${rust}.rs` : `${rust}/main.rs`
  // Some titles are put together.
  const named = isOfFacade(mutation) ? test.replace(/^(a process|a Worker|a tryLock|this thread)/, '') : `fn ${test}(`
  return read(tests).includes(named) ? undefined : `there is no test ${test} in ${tests}`
}
