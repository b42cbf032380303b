// What is wrong with a segment's file or its folder: each has its own code, and says what differs.
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, linkSync, mkdirSync, readFileSync, readdirSync, rmSync, statfsSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { rejects, throws, type Coded } from './fixtures/expect.cjs'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { adminWordAt, CHUNK_LOCKS, copySegment, HEADER, patch, STAMP_BYTES, wordAt } from './fixtures/segment.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

const test = suite('errors, files')
const isRoot = process.getuid?.() === 0
const NOBODY = 65_534
const TMPFS = 0x0102_1994

const openPath = (path: string): Coded => throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_PERMISSION')

/** A segment of this process; what `copied` gives is the same in another file. */
const original = openManager({ name: unique() })
original.allocateLock()

function copied(): string {
  const path = join(folder, unique())
  copySegment(original.path, path)
  return path
}

test('a copy of a segment is a segment', () => {
  const manager = openManager({ path: copied() })
  assert.is(manager.created, false)
  assert.is(manager.availableLocks(), 2047)
  manager.retrieveLock(0).lockSync().unlock()
})

test('NOT_FOUND', () => {
  const name = unique()
  throws(() => openManager({ name, mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  assert.is(existsSync(join(folder, name)), false)
  for (const mode of ['open', 'create', 'open-or-create'] as const) {
    const error = throws(() => openManager({ path: join(folder, name, 'segment'), mode }), 'ERR_ROBUST_LOCK_NOT_FOUND')
    assert.is(error.errno, 2)
  }
  const behindFile = throws(() => openManager({ path: join(original.path, 'segment') }), 'ERR_ROBUST_LOCK_NOT_FOUND')
  assert.is(behindFile.errno, 20)
})

test("NOT_FOUND: mode 'open' makes no folder", () => {
  const missing = join(folder, unique())
  process.env['ROBUST_LOCK_DIR'] = missing
  try {
    throws(() => openManager({ name: 'segment', mode: 'open' }), 'ERR_ROBUST_LOCK_NOT_FOUND')
    assert.is(existsSync(missing), false)
    openManager({ name: 'segment' }).close()
    openManager({ name: 'segment', mode: 'open' }).close()
  } finally {
    process.env['ROBUST_LOCK_DIR'] = folder
  }
})

test('EXISTS', () => {
  throws(() => openManager({ path: original.path, mode: 'create' }), 'ERR_ROBUST_LOCK_EXISTS')
  throws(() => openManager({ path: copied(), mode: 'create' }), 'ERR_ROBUST_LOCK_EXISTS')
})

test('PERMISSION: a file that others may use', () => {
  for (const mode of [0o644, 0o660, 0o602, 0o610]) {
    const path = copied()
    chmodSync(path, mode)
    assert.match(openPath(path).message, `0${mode.toString(8)}`)
    assert.match(openPath(path).message, '0600')
  }
})

test('PERMISSION: links', () => {
  const path = copied()
  const link = join(folder, unique())
  symlinkSync(path, link)
  assert.match(openPath(link).message, 'symbolic link')
  linkSync(path, `${link}-hard`)
  assert.match(openPath(path).message, '2 hard links')
  rmSync(`${link}-hard`)
  openManager({ path }).close()
})

test("PERMISSION: somebody else's file", () => {
  if (isRoot) {
    const path = copied()
    chownSync(path, NOBODY, NOBODY)
    assert.match(openPath(path).message, `user ${NOBODY}`)
    return
  }
  const error = openPath('/etc/hostname')
  assert.equal([error.errno, error.syscall], [13, 'open'])
})

function inFolder(path: string): Coded {
  process.env['ROBUST_LOCK_DIR'] = path
  try {
    return throws(() => openManager({ name: 'segment' }), 'ERR_ROBUST_LOCK_PERMISSION')
  } finally {
    process.env['ROBUST_LOCK_DIR'] = folder
  }
}

test('PERMISSION: a folder that others may use, or that is none', () => {
  const [open, link, file] = [join(folder, unique()), join(folder, unique()), join(folder, unique())]
  mkdirSync(open)
  for (const mode of [0o755, 0o770, 0o701]) {
    chmodSync(open, mode)
    assert.match(inFolder(open).message, `0${mode.toString(8)}`)
  }
  chmodSync(open, 0o700)
  symlinkSync(open, link)
  writeFileSync(file, '')
  for (const path of [link, file]) assert.match(inFolder(path).message, 'not a directory')
  assert.equal(readdirSync(open), [])
})

test('PERMISSION: a folder that somebody else has made: the message says how to go on', () => {
  const squatted = isRoot ? join(folder, unique()) : '/proc'
  if (isRoot) {
    mkdirSync(squatted)
    chownSync(squatted, NOBODY, NOBODY)
  }
  const { message } = inFolder(squatted)
  assert.match(message, `user ${isRoot ? NOBODY : 0}`)
  assert.match(message, 'ROBUST_LOCK_DIR')
})

test('a folder is made if it is not there, for its user alone', () => {
  const path = join(folder, unique())
  process.env['ROBUST_LOCK_DIR'] = path
  const umask = process.umask(0o777)
  try {
    // A umask must not make the folder or the segment unusable: the file has its mode from us.
    mkdirSync(path, { mode: 0o700 })
    chmodSync(path, 0o700)
    const manager = openManager({ name: 'segment' })
    assert.is(manager.path, join(path, 'segment'))
    assert.is(manager.created, true)
  } finally {
    process.umask(umask)
    process.env['ROBUST_LOCK_DIR'] = folder
  }
  const made = join(folder, unique())
  process.env['ROBUST_LOCK_DIR'] = made
  try {
    assert.is(openManager({ name: 'segment' }).path, join(made, 'segment'))
  } finally {
    process.env['ROBUST_LOCK_DIR'] = folder
  }
})

test('CORRUPT: no segment at all', async () => {
  const corrupt = (path: string): Coded => throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_CORRUPT')
  const path = (): string => join(folder, unique())
  const [directory, fifo, socket, empty, text] = [path(), path(), path(), path(), path()]
  mkdirSync(directory)
  assert.match(corrupt(directory).message, 'not a regular file')
  if (spawnSync('mkfifo', ['-m', '600', fifo]).status === 0) corrupt(fifo)
  const server = createServer().listen(socket)
  await until('the socket is there', () => existsSync(socket))
  corrupt(socket)
  server.close()
  for (const [file, content] of [[empty, ''], [text, 'no segment, but text\n'.repeat(500)]] as const) {
    writeFileSync(file, content, { mode: 0o600 })
    assert.match(corrupt(file).message, file)
    assert.match(corrupt(file).message, 'magic')
  }
})

test('CORRUPT: a segment that is damaged', () => {
  const corrupt = (damage: (path: string) => void, about: string): void => {
    const path = copied()
    damage(path)
    const { message } = throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_CORRUPT')
    assert.match(message, about)
  }
  corrupt((path) => truncateSync(path, 1 << 20), '1048576 bytes')
  corrupt((path) => patch(path, HEADER.magic, Uint8Array.of(0)), 'magic')
  corrupt((path) => patch(path, HEADER.capacity, Uint32Array.of(0)), 'capacity')
  corrupt((path) => patch(path, HEADER.capacity, Uint32Array.of(2 ** 20 + 1)), 'capacity')
  corrupt((path) => patch(path, HEADER['creation time'], new Uint8Array(8).fill(0xff)), 'creation time')
})

test('CORRUPT: a mutex that is damaged', async () => {
  const manager = openManager({ path: copied() })
  const locker = manager.retrieveLock(0)
  const word = wordAt(manager.path, 0, 'main')
  // What the C library notices. glibc: a kind of mutex that does not exist. musl, where the kind stands
  // before the lock word: an owner that is nobody.
  const isMusl = adminWordAt(manager.path) !== HEADER.admin
  if (isMusl) patch(manager.path, word, Uint32Array.of(0x3fff_ffff))
  else patch(manager.path, word + 4, new Uint8Array(36).fill(0xff))
  const errno = isMusl ? 131 : 22
  for (const call of [() => locker.tryLock(), () => locker.lockSync()]) {
    const error = throws(call, 'ERR_ROBUST_LOCK_CORRUPT')
    assert.is(error.errno, errno)
  }
  assert.is((await rejects(locker.lock(), 'ERR_ROBUST_LOCK_CORRUPT')).errno, errno)
  manager.retrieveLock(1).lockSync().unlock()
})

test('INCOMPATIBLE: every field of the header that two builds must agree on', () => {
  const fields = Object.entries(HEADER).filter(([, at]) => at >= HEADER['byte order'] && at <= HEADER['mutex image'])
  for (const [field, at] of fields) {
    const path = copied()
    if (field === 'compatible features' || field === 'creation time') continue
    patch(path, at + 1, Uint8Array.of(0x55))
    const { message } = throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_INCOMPATIBLE')
    assert.match(message, field)
    assert.match(message, path)
    rmSync(path)
  }
})

test('a feature that an older build need not know is no obstacle', () => {
  const path = copied()
  patch(path, HEADER['compatible features'], Uint32Array.of(0xffff_ffff))
  assert.is(openManager({ path }).availableLocks(), 2047)
})

test('a refusal of a damaged segment changes nothing in it', () => {
  const path = copied()
  patch(path, HEADER['layout version'], Uint32Array.of(99))
  // Foreign stamps beside: it must not be adopted either.
  patch(path, HEADER.stamps, new Uint8Array(STAMP_BYTES).fill(7))
  const { message } = throws(() => openManager({ path, capacity: 2 ** 20 }), 'ERR_ROBUST_LOCK_INCOMPATIBLE')
  assert.match(message, '99')
  patch(path, HEADER['layout version'], Uint32Array.of(1))
  const manager = openManager({ path })
  assert.is(manager.capacity, 2048)
  manager.retrieveLock(0).lockSync().unlock()
})

/** A folder that this user can write to and that is on no tmpfs. */
const onDisk = [tmpdir(), '/var/tmp', homedir(), process.cwd()].find((path) => {
  const probe = join(path, `robust-lock-test-${process.pid}`)
  try {
    mkdirSync(probe)
    rmSync(probe, { recursive: true })
    return statfsSync(path).type !== TMPFS
  } catch {
    return false
  }
})

test('NOT_TMPFS', () => {
  if (onDisk === undefined) return notRun('NOT_TMPFS', 'every folder that this user can write to is on a tmpfs')
  const path = join(onDisk, `robust-lock-test-${process.pid}`)
  try {
    const create = throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_NOT_TMPFS')
    assert.match(create.message, path)
    assert.is(existsSync(path), false)
    writeFileSync(path, '', { mode: 0o600 })
    throws(() => openManager({ path }), 'ERR_ROBUST_LOCK_NOT_TMPFS')
  } finally {
    rmSync(path, { force: true })
  }
})

test('a refusal leaves no descriptor, thread or mapping behind', async () => {
  const [truncated, foreign, others, squatted] = [copied(), copied(), copied(), join(folder, unique())]
  truncateSync(truncated, 4096)
  patch(foreign, 8, Uint32Array.of(0xffff_ffff))
  chmodSync(others, 0o644)
  mkdirSync(squatted)
  const paths = [truncated, foreign, others, squatted, '/dev/null', join(folder, unique(), 'segment')]
  if (onDisk !== undefined) paths.push(join(onDisk, unique()))
  const peer = new ProcessPeer()
  const look = (rounds: number): Promise<{ counts: number[]; codes: string[] }> =>
    peer.run(
      ({ lib, fs }, { paths, rounds, existing }) => {
        const codes = new Set<string>()
        for (let i = 0; i < rounds; i++) {
          for (const path of paths) {
            try {
              lib.openManager({ path })
              codes.add('none')
            } catch (error) {
              codes.add((error as { code: string }).code)
            }
          }
          for (const mode of ['create', 'open'] as const) {
            try {
              lib.openManager({ path: mode === 'create' ? existing : `${existing}-not`, mode })
            } catch (error) {
              codes.add((error as { code: string }).code)
            }
          }
        }
        const segments = fs.readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.includes('/dev/shm/') || line.includes(' /tmp/'))
        return { counts: [fs.readdirSync('/proc/self/fd').length, fs.readdirSync('/proc/self/task').length, segments.length], codes: [...codes].toSorted() }
      },
      { paths, rounds, existing: original.path },
    )
  const before = await look(1)
  const after = await look(100)
  assert.equal(after, before)
  const codes = ['CORRUPT', 'EXISTS', 'INCOMPATIBLE', 'NOT_FOUND', 'PERMISSION', ...(onDisk === undefined ? [] : ['NOT_TMPFS'])]
  for (const code of codes) assert.ok(after.codes.includes(`ERR_ROBUST_LOCK_${code}`), `${code} in ${after.codes.join(' ')}`)
  assert.is(after.codes.includes('none'), false)
})

test("CORRUPT: a program that closed the segment's descriptor, and whose own file has the number now, keeps its file", async () => {
  const options = { name: unique() }
  const own = join(folder, unique())
  const peer = new ProcessPeer()
  await open(peer, options)
  await take(peer, 0)
  const refused = peer.run(
    ({ fs, manager }, { own, far }) => {
      const { ino } = fs.statSync(manager.path)
      for (const fd of fs.readdirSync('/proc/self/fd')) {
        if (fs.statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false })?.ino !== ino) continue
        fs.closeSync(Number(fd))
        if (fs.openSync(own, 'w+') !== Number(fd)) throw new Error('another number')
      }
      fs.writeFileSync(own, 'its own')
      manager.retrieveLock(far)
    },
    { own, far: CHUNK_LOCKS },
  )
  assert.match((await rejects(refused, 'ERR_ROBUST_LOCK_CORRUPT')).message, 'descriptor')
  assert.is(readFileSync(own, 'utf8'), 'its own')
  // What it has it keeps, and others go on.
  const manager = openManager(options)
  assert.is(manager.retrieveLock(0).tryLock(), undefined)
  await release(peer, 0)
  manager.retrieveLock(0).lockSync().unlock()
  assert.is(manager.allocateAndRetrieveLock(CHUNK_LOCKS).id, CHUNK_LOCKS)
})

test.run()
