// Holds lock 0 of the segment named, until it is told to let go.
const { openManager } = require('robust-lock')

const guard = openManager({ name: process.argv[2], inUse: [0] }).retrieveLock(0).lockSync()
process.on('message', () => {
  guard.unlock()
  process.disconnect()
})
process.send('held')
