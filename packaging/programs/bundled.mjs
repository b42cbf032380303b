// What is bundled: a program of two processes that starts itself anew.
import { fork, spawn } from 'node:child_process'
import { openManager, supported } from 'robust-lock'

const manager = openManager({ name: 'bundled', inUse: [0] })
const lock = manager.retrieveLock(0)
const [file] = process.argv.slice(1)
if (process.argv.includes('child')) {
  lock.lockSync()
  process.send('held')
  setInterval(() => {}, 1_000)
} else {
  // A single executable has no file of its own to run.
  const child = file === process.execPath ? spawn(process.execPath, ['child'], { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] }) : fork(file, ['child'])
  child.once('message', async () => {
    const busy = lock.tryLock() === undefined
    const waiting = lock.lock()
    child.kill('SIGKILL')
    const guard = await waiting
    console.log(JSON.stringify({ supported, busy, ownerDied: guard.ownerDied }))
    guard.markConsistent()
    guard.unlock()
  })
}
