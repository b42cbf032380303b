import { isSupported } from './loader.cjs'

export { openManager } from './manager.cjs'
export { LockError } from './errors.cjs'
export type { Manager, OpenOptions } from './manager.cjs'
export type { Locker, LockOptions, WaitOptions } from './locker.cjs'
export type { Guard } from './guard.cjs'
export type { MultiGuard } from './several.cjs'
export type { LockErrorCode } from './errors.cjs'

/** Whether this platform has a native module, and it is installed. */
export const supported: boolean = isSupported()
