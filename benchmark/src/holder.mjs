// A process that takes a peer's lock, says so, and ends inside its section: when it is killed or, once it is told
// to, by its own process.exit() or the terminate() of the Worker that has the lock. Then it says when
// (CLOCK_MONOTONIC, ns).
import { readSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Worker, isMainThread, parentPort } from 'node:worker_threads'
import { monotonic } from './contend.mjs'
import { peers } from './peers.mjs'

const [, , module, , parent, folder, segment, entrant, way] = process.argv

const say = (line) => writeSync(1, `${line}\n`)
/** Blocks until a line comes, or the parent is gone. */
const waitToBeTold = () => readSync(0, Buffer.alloc(64))

async function take(inside) {
  const [name, mode] = entrant.split('/')
  const opened = await peers[name](folder, segment)
  await opened[mode](inside)
}

if (!isMainThread) {
  await take(() => {
    parentPort.postMessage('held')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  })
}
createRequire(import.meta.url)(module).bind(Number(parent))
if (way === 'worker.terminate()') {
  const worker = new Worker(new URL(import.meta.url), { argv: process.argv.slice(2) })
  await new Promise((resolve) => worker.once('message', resolve))
  say('held')
  waitToBeTold()
  say(monotonic())
  await worker.terminate()
} else {
  await take(() => {
    say('held')
    waitToBeTold()
    say(monotonic())
    process.exit()
  })
}
