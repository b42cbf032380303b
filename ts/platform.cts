import { readFileSync } from 'node:fs'
import { LockError } from './errors.cjs'

/**
 * Whether the C library that this process has mapped is musl. Its file is libc.so, and ld-musl-ARCH.so.1 a link to it; with
 * Alpine it is the other way round. (glibc's is libc.so.6, and its libc.so is no library.)
 */
function isMusl(): boolean {
  try {
    return /\/(ld-musl-.*|libc\.so)( \(deleted\))?$/m.test(readFileSync('/proc/self/maps', 'latin1'))
  } catch (cause) {
    // Whoever may not read it, as under --permission, is taken to have glibc.
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') return false
    const message = '/proc/self/maps is not there: mount a /proc of this PID namespace (unshare has --mount-proc)'
    throw new LockError('ERR_ROBUST_LOCK_NO_PROC', message, { cause, errno: 2, syscall: 'open' })
  }
}

/** What the native module of this process is called: linux-x64-gnu and so on. */
export function platformName(): string {
  const { platform, arch } = process
  if (platform !== 'linux') return `${platform}-${arch}`
  return `linux-${arch}-${isMusl() ? 'musl' : arch === 'arm' ? 'gnueabihf' : 'gnu'}`
}
