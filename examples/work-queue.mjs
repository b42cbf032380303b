// A work queue of several processes: jobs are lines of a file, and each is done once, although workers
// are killed. Who gets the lock of a job whose worker died does the job again.
import { fork } from 'node:child_process'
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openManager } from 'robust-lock'

const JOBS = 40
const open = () => openManager({ name: `example-work-queue-${process.env.QUEUE}` })

if (process.argv[2] === 'worker') {
  const { FOLDER } = process.env
  const manager = open()
  const jobs = JSON.parse(readFileSync(join(FOLDER, 'jobs'), 'utf8'))
  const done = () => new Set(readFileSync(join(FOLDER, 'done'), 'utf8').split('\n'))
  for (const { name, lock } of jobs) {
    const guard = manager.retrieveLock(lock).tryLock()
    if (guard === undefined) continue // somebody is at it
    if (!done().has(name)) {
      process.send({ name, again: guard.ownerDied })
      await new Promise((resolve) => setTimeout(resolve, 5)) // the job
      appendFileSync(join(FOLDER, 'done'), `${name}\n`) // one small write: done or not, never half
    }
    guard.markConsistent()
    guard.unlock()
  }
  process.disconnect()
} else {
  process.env.QUEUE = String(process.pid)
  process.env.FOLDER = mkdtempSync(join(tmpdir(), 'example-work-queue-'))
  const manager = open()
  const jobs = Array.from({ length: JOBS }, (_, i) => ({ name: `job-${i}`, lock: manager.allocateLock().id }))
  writeFileSync(join(process.env.FOLDER, 'jobs'), JSON.stringify(jobs))
  writeFileSync(join(process.env.FOLDER, 'done'), '')

  let [begun, again, killed] = [0, 0, 0]
  const work = () =>
    new Promise((resolve) => {
      const worker = fork(process.argv[1], ['worker'])
      worker.on('message', (job) => {
        begun++
        if (job.again) again++
        if (begun % 8 === 0 && killed < 4 && worker.kill('SIGKILL')) killed++
      })
      worker.once('exit', (code, signal) => resolve(signal))
    })
  // Three at a time, and a new one for each that was killed; a last one looks after everybody.
  await Promise.all([1, 2, 3].map(async () => { while ((await work()) === 'SIGKILL'); }))
  while ((await work()) === 'SIGKILL');

  const done = readFileSync(join(process.env.FOLDER, 'done'), 'utf8').trim().split('\n')
  console.log(`${JOBS} jobs: ${done.length} done, ${new Set(done).size} different ones`)
  console.log(`${killed} workers killed, ${again} jobs taken up again`)
  rmSync(process.env.FOLDER, { recursive: true })
  rmSync(manager.path)
  process.exitCode = done.length === JOBS && new Set(done).size === JOBS ? 0 : 1
}
