// A single-instance guard: the second start of a program says so and ends. No file stays behind that a
// crash could leave stale: the lock of a killed instance is free at once.
import { fork } from 'node:child_process'
import { openManager } from 'robust-lock'

const LOCK = 0 // this program's only lock: its id is a constant

/** Whether this process is the only one now. The guard is kept until the process ends. */
function amITheOne() {
  const manager = openManager({ name: 'example-single-instance', capacity: 1 })
  const guard = manager.retrieveLock(LOCK).tryLock()
  // A killed instance leaves nothing that this program would have to repair.
  guard?.markConsistent()
  return guard !== undefined
}

if (process.argv[2] === 'instance') {
  process.send(amITheOne() ? 'I am the one' : 'another one is running: I end')
  process.on('disconnect', () => process.exit())
} else {
  const start = async (name) => {
    const child = fork(process.argv[1], ['instance'])
    const said = await new Promise((resolve) => child.once('message', resolve))
    console.log(`${name}: ${said}`)
    return child
  }
  const end = (child) =>
    new Promise((resolve) => {
      child.once('exit', resolve)
      child.kill('SIGKILL')
    })
  const first = await start('first')
  const second = await start('second')
  await end(first)
  console.log('first: killed')
  const third = await start('third')
  await Promise.all([end(second), end(third)])
}
