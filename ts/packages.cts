import { LockError } from './errors.cjs'

/** Of this package; the native ones have the same. */
export const { version } = require('../package.json') as { version: string }

export function noPrebuilt(what: string, cause?: unknown): LockError {
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

/**
 * The native package of a platform, or what a bundler has put in its place. Literal names, so that it sees
 * them; inside `try`, so that it does not mind those which are not installed.
 */
export function requirePackage(name: string): unknown {
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
