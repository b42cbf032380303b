// Allocating and freeing, and opening, at both ends of the scale.
import { rmSync } from 'node:fs'
import { openManager } from '../../dist/index.cjs'
import { race, report } from './measure.mjs'

export async function pool(settings) {
  const path = (name) => `/dev/shm/robust-lock-benchmark-${process.pid}-${name}`
  const made = []
  const open = (name, capacity, taken) => {
    made.push(path(name))
    return openManager({ path: path(name), mode: 'create', capacity, inUse: Array.from({ length: taken }, (_, id) => id) })
  }
  try {
    const contestants = []
    for (const capacity of [2 ** 11, 2 ** 20]) {
      for (const [share, taken] of [['empty', 0], ['half full', capacity / 2], ['the last one', capacity - 1]]) {
        const manager = open(`${capacity}-${taken}`, capacity, taken)
        const run = (count) => {
          for (let i = 0; i < count; i++) manager.allocateLock().free()
        }
        contestants.push({ name: `${capacity} locks, ${share}`, target: '≤ 3', run })
      }
    }
    const results = await race(contestants, settings)
    report('allocate, free', results, results[0].name)
  } finally {
    for (const file of made) rmSync(file, { force: true })
  }
}
