// The refresh after a reboot: a program keeps the ids of its locks in its database, which survives; the
// segment does not. Whoever is first makes it anew, with these ids taken from the first instant.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { openManager } from 'robust-lock'

const [folder, command, name] = process.argv.slice(2)

/** What the program does at every start, whether there was a reboot or not. */
function start(database) {
  const containers = JSON.parse(readFileSync(database, 'utf8'))
  const manager = openManager({ name: basename(folder), inUse: containers.map(({ lock }) => lock) })
  if (manager.created) console.log('(the segment is made anew, from the database)')
  return { manager, containers }
}

function program() {
  const database = join(folder, 'containers.json')
  const { manager, containers } = start(database)
  if (command === 'add') {
    const { id } = manager.allocateLock()
    writeFileSync(database, JSON.stringify([...containers, { name, lock: id }]))
    console.log(`${name} has lock ${id}`)
  } else if (command === 'remove') {
    const removed = containers.find((one) => one.name === name)
    writeFileSync(database, JSON.stringify(containers.filter((one) => one !== removed)))
    manager.retrieveLock(removed.lock).free()
    console.log(`${name} is removed, and lock ${removed.lock} is free again`)
  } else {
    rmSync(manager.path) // as a reboot does it
  }
}

function show() {
  const own = mkdtempSync(join(tmpdir(), 'example-refresh-'))
  const run = (...args) => execFileSync(process.execPath, [process.argv[1], own, ...args], { stdio: 'inherit' })
  writeFileSync(join(own, 'containers.json'), '[]')
  for (const container of ['web', 'db', 'cache']) run('add', container)
  run('remove', 'db')
  console.log('the machine is rebooted')
  run('reboot')
  run('add', 'queue') // gets the free id, not web's or cache's
  const ids = JSON.parse(readFileSync(join(own, 'containers.json'), 'utf8')).map(({ lock }) => lock)
  console.log(`no lock is shared: ${new Set(ids).size === ids.length}`)
  run('reboot')
  rmSync(own, { recursive: true })
}

if (folder === undefined) show()
else program()
