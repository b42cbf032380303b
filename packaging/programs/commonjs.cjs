// Two processes, in CommonJS: one waits until the other has let go.
const { fork } = require('node:child_process')
const { openManager, supported } = require('robust-lock')

const manager = openManager({ name: 'commonjs', inUse: [0] })
const lock = manager.retrieveLock(0)
if (process.argv[2] === 'child') {
  const guard = lock.lockSync()
  process.on('message', () => {
    guard.unlock()
    process.disconnect()
  })
  process.send('held')
} else {
  const child = fork(__filename, ['child'])
  child.once('message', async () => {
    const busy = lock.tryLock() === undefined
    const waiting = lock.lock()
    child.send('let go')
    const guard = await waiting
    console.log(JSON.stringify({ supported, busy, ownerDied: guard.ownerDied }))
    guard.unlock()
  })
}
