// Two processes, in TypeScript: compiled in strict mode, with the types of the installed package.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { openManager, supported, LockError, type Guard, type Locker, type LockErrorCode, type Manager } from 'robust-lock'

const manager: Manager = openManager({ name: 'typescript', inUse: [0] })
const lock: Locker = manager.retrieveLock(0)
if (process.argv[2] === 'child') {
  lock.lockSync()
  process.send?.('held')
  setInterval(() => {}, 1_000)
} else {
  const child = fork(fileURLToPath(import.meta.url), ['child'])
  await new Promise((resolve) => child.once('message', resolve))
  let code: LockErrorCode | undefined
  try {
    await lock.lock({ timeout: 10 })
  } catch (error) {
    if (error instanceof LockError) code = error.code
  }
  const busy: boolean = code === 'ERR_ROBUST_LOCK_TIMEOUT'
  const waiting: Promise<Guard> = lock.lock({ signal: AbortSignal.timeout(30_000) })
  child.kill('SIGKILL')
  {
    using guard = await waiting
    console.log(JSON.stringify({ supported, busy, ownerDied: guard.ownerDied }))
    guard.markConsistent()
  }
}
