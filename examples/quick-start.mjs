// The README's example: a process is killed inside its critical section, and the next one is told.
import { fork } from 'node:child_process'
import { openManager } from 'robust-lock'

const manager = openManager({ name: 'robust-lock-example' })

if (process.argv[2] === undefined) {
  const lock = manager.allocateLock()
  const child = fork(process.argv[1], [String(lock.id)])
  child.once('message', async () => {
    child.kill('SIGKILL') // inside its critical section
    const guard = await lock.lock({ timeout: 5_000 })
    console.log(`lock ${lock.id}: the last owner died? ${guard.ownerDied}`)
    guard.markConsistent() // after the data has been repaired
    lock.free()
    guard.unlock()
  })
} else {
  manager.retrieveLock(Number(process.argv[2])).lockSync()
  process.send('I have it')
  setInterval(() => {}, 1_000) // and keeps it until it is killed
}
