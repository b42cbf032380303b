// The refresh after a reboot: a program keeps the ids of its locks in its database, which survives; the
// segment does not. Whoever is first makes it anew, with these ids taken from the first instant.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openManager } from 'robust-lock'

const folder = mkdtempSync(join(tmpdir(), 'example-refresh-'))
const database = join(folder, 'containers.json')
const name = `example-refresh-${process.pid}`

/** What a program does at every start, whether there was a reboot or not. */
function start() {
  const containers = JSON.parse(readFileSync(database, 'utf8'))
  const manager = openManager({ name, inUse: containers.map(({ lock }) => lock) })
  console.log(manager.created ? 'made the segment anew, from the database' : 'found the segment')
  return { manager, containers }
}

function add({ manager, containers }, container) {
  const locker = manager.allocateLock()
  containers.push({ container, lock: locker.id })
  writeFileSync(database, JSON.stringify(containers))
  console.log(`${container} has lock ${locker.id}`)
}

writeFileSync(database, '[]')
const before = start()
for (const container of ['web', 'db', 'cache']) add(before, container)
before.manager.retrieveLock(1).free() // db is removed
before.containers.splice(1, 1)
writeFileSync(database, JSON.stringify(before.containers))

start() // another process, the same boot

rmSync(before.manager.path) // the reboot: the tmpfs is gone, the database is not
process.on('warning', () => {}) // (this process has the old segment still, and would say so)
const after = start()
add(after, 'queue') // gets the free id, not web's or cache's
const taken = after.containers.map(({ lock }) => lock)
console.log(`no lock is shared: ${new Set(taken).size === taken.length}`)

rmSync(after.manager.path)
rmSync(folder, { recursive: true })
