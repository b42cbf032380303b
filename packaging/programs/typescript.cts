// The same types, seen from CommonJS.
import lib = require('robust-lock')
import { openManager, type Guard } from 'robust-lock'

const guard: Guard = openManager({ name: 'typescript-commonjs', inUse: [0] }).retrieveLock(0).lockSync()
const busy: boolean = lib.openManager({ name: 'typescript-commonjs' }).retrieveLock(0).tryLock() === undefined
console.log(JSON.stringify({ supported: lib.supported, busy, ownerDied: guard.ownerDied }))
guard.unlock()
