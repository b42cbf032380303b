// Everything that a critical section between processes can be protected with here, in one form:
// `sync(inside)` and `async(inside)` run a function with the lock held. Each is opened by the process
// that uses it, on files in a folder that all share.
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

async function robustLock(folder, segment) {
  const { openManager } = await import('../../dist/index.cjs')
  const locker = openManager({ path: segment }).retrieveLock(0)
  const leave = (guard) => {
    if (guard.ownerDied) guard.markConsistent()
    guard.unlock()
  }
  return {
    sync(inside) {
      const guard = locker.lockSync()
      inside()
      leave(guard)
    },
    async async(inside) {
      const guard = await locker.lock()
      inside()
      leave(guard)
    },
    close() {},
  }
}

/** Its write transactions exclude each other by a robust mutex in a file that is mapped. */
async function lmdb(folder) {
  const { open } = await import('lmdb')
  const path = join(folder, 'lmdb')
  mkdirSync(path, { recursive: true })
  const database = open({ path, noSync: true })
  return {
    sync: (inside) => database.transactionSync(inside),
    /** As most people would use it. */
    write: (inside) => database.transactionSync(() => { inside(); database.putSync('key', 1) }),
    close: () => database.close(),
  }
}

/** Each has a file of its own: a lock of flock(2) and one of fcntl(2) do not know of each other. */
function file(folder, name) {
  const path = join(folder, name)
  writeFileSync(path, '', { flag: 'a' })
  return path
}

async function fsExt(folder) {
  const { default: binding } = await import('fs-ext')
  const fd = openSync(file(folder, 'fs-ext'), 'r+')
  const flock = (how) => new Promise((resolve, reject) => binding.flock(fd, how, (error) => (error ? reject(error) : resolve())))
  return {
    sync(inside) {
      binding.flockSync(fd, 'ex')
      inside()
      binding.flockSync(fd, 'un')
    },
    /** Letting go does not block: no need to ask a thread to do it. */
    async async(inside) {
      await flock('ex')
      inside()
      binding.flockSync(fd, 'un')
    },
    close: () => closeSync(fd),
  }
}

async function fsNativeExtensions(folder) {
  const { default: binding } = await import('fs-native-extensions')
  const fd = openSync(file(folder, 'fs-native-extensions'), 'r+')
  return {
    sync(inside) {
      binding.waitForLockSync(fd)
      inside()
      binding.unlock(fd)
    },
    async async(inside) {
      await binding.waitForLock(fd)
      inside()
      binding.unlock(fd)
    },
    close: () => closeSync(fd),
  }
}

/** Kept from the garbage collector, and no statement is made in passing: a collected one aborts Node 24. */
const kept = []

async function betterSqlite3(folder) {
  const { default: Database } = await import('better-sqlite3')
  const database = new Database(join(folder, 'sqlite'), { timeout: 60_000 })
  database.exec('PRAGMA journal_mode = WAL')
  const [begin, commit] = [database.prepare('BEGIN IMMEDIATE'), database.prepare('COMMIT')]
  kept.push(database, begin, commit)
  return {
    sync(inside) {
      begin.run()
      inside()
      commit.run()
    },
    close: () => database.close(),
  }
}

async function properLockfile(folder) {
  const { default: lockfile } = await import('proper-lockfile')
  const path = file(folder, 'proper-lockfile')
  const cell = new Int32Array(new SharedArrayBuffer(4))
  return {
    // It does not wait when it blocks: tried each millisecond.
    sync(inside) {
      let release
      while (release === undefined) {
        try {
          release = lockfile.lockSync(path)
        } catch (error) {
          if (error.code !== 'ELOCKED') throw error
          Atomics.wait(cell, 0, 0, 1)
        }
      }
      inside()
      release()
    },
    /** Its own retries, as quick as they can be; what it takes for stale is 10 s old, as it is by default. */
    async async(inside) {
      const release = await lockfile.lock(path, { retries: { forever: true, minTimeout: 1, maxTimeout: 1 } })
      inside()
      await release()
    },
    close() {},
  }
}

/** The names of ours and of the floor, in tables beside the peers. */
export const OURS = 'robust-lock'
export const FLOOR = 'the floor: a bare mutex in C'

/** By name: a function of the folder (and the segment, for ours) that gives what is above. */
export const peers = {
  [OURS]: robustLock,
  lmdb,
  'fs-ext': fsExt,
  'fs-native-extensions': fsNativeExtensions,
  'better-sqlite3': betterSqlite3,
  'proper-lockfile': properLockfile,
}
