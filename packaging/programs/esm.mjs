// Two processes, as an ES module: one is killed inside its critical section, the other is told so.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { openManager, supported } from 'robust-lock'

const manager = openManager({ name: 'esm', inUse: [0] })
const lock = manager.retrieveLock(0)
if (process.argv[2] === 'child') {
  lock.lockSync()
  process.send('held')
  setInterval(() => {}, 1_000)
} else {
  const child = fork(fileURLToPath(import.meta.url), ['child'])
  await new Promise((resolve) => child.once('message', resolve))
  const busy = lock.tryLock() === undefined
  const waiting = lock.lock()
  child.kill('SIGKILL')
  const guard = await waiting
  console.log(JSON.stringify({ supported, busy, ownerDied: guard.ownerDied }))
  guard.markConsistent()
  guard.unlock()
}
