import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { noPrebuilt, requirePackage, version } from './packages.cjs'
import { platformName } from './platform.cjs'

/** A bundle that is an ES module has no file name. */
const here = typeof __filename === 'string' ? createRequire(__filename) : undefined

/** The module's file: what the environment names, else beside this file (in a bundle), of this very tree, the package's. */
function locate(name: string): string | undefined {
  const given = process.env['ROBUST_LOCK_NATIVE_PATH']
  if (given && !existsSync(given)) throw noPrebuilt(`The native module ${given} is not there`)
  if (given) return resolve(given)
  if (here === undefined) return undefined
  const near = ['.', '..'].map((folder) => resolve(__dirname, folder, `robust-lock.${name}.node`)).find(existsSync)
  try {
    return near ?? here.resolve(`@robust-lock/${name}`)
  } catch {
    // It is in a bundle; or `requirePackage` meets the same error, and says what it means.
    return undefined
  }
}

/** Whether `loadModule` would find something. It loads nothing, unless this is inside a bundle. */
export function isSupported(): boolean {
  try {
    const name = platformName()
    return (locate(name) ?? requirePackage(name)) !== undefined
  } catch {
    return false
  }
}

/** The native module of this copy of the library: it and no other may start it. */
export function loadModule(): unknown {
  const name = platformName()
  const found = locate(name)
  const module: { exports: unknown } = { exports: found === undefined ? requirePackage(name) : {} }
  // Two bundles in one process can have the file in common.
  const file = found ?? Object.values(here?.cache ?? {}).find((known) => known?.exports === module.exports)?.filename
  // Made anew: two copies of this library that shared what it exports would take each other's calls.
  if (file !== undefined) {
    module.exports = {}
    process.dlopen(module, file)
  }
  const theirs = (module.exports as { version?: () => string }).version?.()
  if (theirs === version) return module.exports
  throw noPrebuilt(`The native module ${file ?? name} is of version ${theirs ?? 'unknown'}, robust-lock of ${version}: they belong together`)
}
