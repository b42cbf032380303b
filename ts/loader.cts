import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { LockError } from './errors.cjs'

const { version } = require('../package.json') as { version: string }
/** A bundle that is an ES module has no file name. */
const here = typeof __filename === 'string' ? createRequire(__filename) : undefined

/** linux-x64-gnu and so on. The C library is the one that this process has mapped. */
function platformName(): string {
  const { platform, arch } = process
  if (platform !== 'linux') return `${platform}-${arch}`
  let musl = false
  try {
    musl = readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-')
  } catch (cause) {
    // Whoever may not read it, as under --permission, is taken to have glibc.
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      const message = '/proc/self/maps is not there: mount a /proc of this PID namespace (unshare has --mount-proc)'
      throw new LockError('ERR_ROBUST_LOCK_NO_PROC', message, { cause, errno: 2, syscall: 'open' })
    }
  }
  return `linux-${arch}-${musl ? 'musl' : arch === 'arm' ? 'gnueabihf' : 'gnu'}`
}

function noPrebuilt(what: string, cause?: unknown): LockError {
  const mend = `Run "npm install --include=optional robust-lock@${version}" on this machine (a lock file that was made on another platform can lack it)`
  return new LockError('ERR_ROBUST_LOCK_NO_PREBUILT', `${what}. ${mend}`, { cause })
}

/** Whether it is this very package that is not there, and not a part of it, or a module that it needs. */
function isMissing(error: unknown, request: string): boolean {
  const { code, message, pnpCode } = error as NodeJS.ErrnoException & { pnpCode?: string }
  // In a single executable `require` knows nothing but what is built in.
  if (code === 'ERR_UNKNOWN_BUILTIN_MODULE') return true
  // Yarn's Plug'n'Play has words of its own.
  const name = pnpCode === undefined ? `'${request}'` : request
  return code === 'MODULE_NOT_FOUND' && (message.split('\nRequire stack:', 1)[0] as string).includes(name)
}

/** The module's file: what the environment names, else beside this file (in a bundle), of this very tree, the package's. */
function locate(name: string): string | undefined {
  const given = process.env['ROBUST_LOCK_NATIVE_PATH']
  if (given && !existsSync(given)) throw noPrebuilt(`The native module ${given} is not there`)
  if (given) return resolve(given)
  if (here === undefined) return undefined
  const near = ['.', '..'].map((folder) => resolve(__dirname, folder, `robust-lock.${name}.node`)).find(existsSync)
  if (near !== undefined) return near
  try {
    return here.resolve(`@robust-lock/${name}`)
  } catch (error) {
    if (isMissing(error, `@robust-lock/${name}`)) return undefined
    throw error
  }
}

/**
 * What a bundler has put in the place of these words. Literal names, so that it sees them; inside `try`,
 * so that it does not mind those which are not installed.
 */
function bundled(name: string): unknown {
  try {
    if (name === 'linux-x64-gnu') return require('@robust-lock/linux-x64-gnu')
    if (name === 'linux-x64-musl') return require('@robust-lock/linux-x64-musl')
    if (name === 'linux-arm64-gnu') return require('@robust-lock/linux-arm64-gnu')
    if (name === 'linux-arm64-musl') return require('@robust-lock/linux-arm64-musl')
    if (name === 'linux-arm-gnueabihf') return require('@robust-lock/linux-arm-gnueabihf')
    if (name === 'linux-ppc64-gnu') return require('@robust-lock/linux-ppc64-gnu')
    if (name === 'linux-riscv64-gnu') return require('@robust-lock/linux-riscv64-gnu')
    if (name === 'linux-s390x-gnu') return require('@robust-lock/linux-s390x-gnu')
  } catch (error) {
    throw isMissing(error, `@robust-lock/${name}`) ? noPrebuilt(`The native package @robust-lock/${name} is not installed`, error) : error
  }
  throw new LockError('ERR_ROBUST_LOCK_UNSUPPORTED_PLATFORM', `robust-lock works on Linux (x64, arm64, arm, ppc64, riscv64, s390x), not on ${name}`)
}

/** Whether `loadModule` would find something. It loads nothing, unless this is inside a bundle. */
export function isSupported(): boolean {
  try {
    const name = platformName()
    return (locate(name) ?? bundled(name)) !== undefined
  } catch {
    return false
  }
}

/** The native module of this copy of the library: it and no other may start it. */
export function loadModule(): unknown {
  const name = platformName()
  const found = locate(name)
  const module: { exports: unknown } = { exports: found === undefined ? bundled(name) : {} }
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
