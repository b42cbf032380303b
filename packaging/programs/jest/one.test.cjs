// Jest loads robust-lock anew for each of its test files, into a world of its own, but in one process: the
// second file's waits must not wake the first one's.
const { fork } = require('node:child_process')
const { rmSync } = require('node:fs')

const holder = `${__dirname}/holder.cjs`

async function waits({ openManager }) {
  const child = fork(holder, ['jest'])
  await new Promise((resolve) => child.once('message', resolve))
  const lock = openManager({ name: 'jest' }).retrieveLock(0)
  expect(lock.tryLock()).toBeUndefined()
  const waiting = lock.lock()
  child.send('let go')
  const guard = await waiting
  expect(guard.ownerDied).toBe(false)
  guard.unlock()
}

test('a lock is waited for', () => waits(require('robust-lock')))

test('also after the modules have been reset', async () => {
  const before = require('robust-lock')
  jest.resetModules()
  const after = require('robust-lock')
  expect(after).not.toBe(before)
  await waits(after)
  await waits(before)
})

test('a warning is no error', async () => {
  const manager = require('robust-lock').openManager({ name: 'jest-deleted' })
  rmSync(manager.path)
  manager.allocateLock()
  await new Promise((resolve) => setImmediate(resolve))
})

test('errors have their class and code', () => {
  const { LockError, openManager } = require('robust-lock')
  const open = () => openManager({ name: 'not-there', mode: 'open' })
  expect(open).toThrow(LockError)
  expect(open).toThrow(expect.objectContaining({ code: 'ERR_ROBUST_LOCK_NOT_FOUND' }))
})
