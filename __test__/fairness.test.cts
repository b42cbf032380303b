// Waiting in turn: nobody starves, and a process that is stopped while it waits stops nobody.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { freezers, sigstop, stopFirst } from './fixtures/brakes.cjs'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { folder, notRun, suite, unique } from './fixtures/suite.cjs'
import { patience, until } from './fixtures/within.cjs'

const test = suite('fairness')

interface Greed {
  id: number
  place: number
  file: string
  hold: number
  how: 'sync' | 'async'
}

/** Takes the lock again and again, for ever; in the file stand its turns, and whether it waits. */
async function beGreedy({ fs, locker, tell }: Scope, { id, place, file, hold, how }: Greed): Promise<void> {
  const fd = fs.openSync(file, 'r+')
  const record = new Float64Array(2)
  const note = (waits: number): void => {
    record[1] = waits
    fs.writeSync(fd, record, 0, 16, place * 16)
  }
  tell('begins')
  for (;;) {
    note(1)
    const guard = how === 'sync' ? locker(id).lockSync() : await locker(id).lock()
    record[0] = (record[0] as number) + 1
    note(0)
    const end = performance.now() + hold
    while (performance.now() < end);
    guard.unlock()
  }
}

async function crowd(count: number, hold: number, how: (place: number) => 'sync' | 'async') {
  const name = unique()
  const file = join(folder, name + '.turns')
  writeFileSync(file, Buffer.alloc(count * 16))
  const manager = openManager({ name })
  const locker = manager.allocateLock()
  const peers = Array.from({ length: count }, () => new ProcessPeer())
  await Promise.all(peers.map((peer) => open(peer, { name })))
  peers.forEach((peer, place) => peer.launch(beGreedy, { id: locker.id, place, file, hold, how: how(place) }))
  await Promise.all(peers.map((peer) => peer.hears('begins')))
  const read = (): { turns: number; waits: boolean }[] => {
    // In the processor's byte order, as they write it.
    const records = new Float64Array(new Uint8Array(readFileSync(file)).buffer)
    return peers.map((_, place) => ({ turns: records[place * 2] as number, waits: records[place * 2 + 1] === 1 }))
  }
  return { name, locker, path: manager.path, peers, read }
}

/** Until each of them has had `more` turns. */
async function turns(what: string, read: () => { turns: number }[], places: number[], more: number): Promise<void> {
  const from = read()
  await until(what, () => {
    const now = read()
    return places.every((place) => (now[place]?.turns ?? 0) >= (from[place]?.turns ?? 0) + more)
  })
}

for (const how of ['sync', 'async'] as const) {
  test(`a modest one beside three greedy processes gets its turns (${how})`, async () => {
    const { locker } = await crowd(3, 1, () => how)
    // Beside a plain mutex it had one turn in 22 s.
    for (let i = 0; i < 100; i++) {
      if (how === 'sync') locker.lockSync().unlock()
      else (await locker.lock()).unlock()
    }
  })
}

test('one whose event loop is late each time gets its turns beside three prompt ones', async () => {
  const { name, locker } = await crowd(3, 3, () => 'async')
  const late = new ProcessPeer()
  await open(late, { name })
  /** How often it must come for ten turns. */
  const comings = (): Promise<number> =>
    late.run(async ({ locker }, id) => {
      const cell = new Int32Array(new SharedArrayBuffer(4))
      let comings = 0
      const block = (): void => {
        comings++
        Atomics.wait(cell, 0, 0, 100)
        timer = setImmediate(block)
      }
      let timer = setImmediate(block)
      for (let turn = 0; turn < 10; turn++) {
        const guard = await locker(id).lock()
        // Longer than any quantum: each turn is one.
        Atomics.wait(cell, 0, 0, 2)
        guard.unlock()
      }
      clearImmediate(timer)
      return comings
    }, locker.id)
  // Once a turn; if it merely tried when it comes, eight times. A machine with more to do than it can, or
  // that is emulated, may make the others' turns longer than it waits: so it may try again.
  const most = patience > 1 ? 40 : 20
  const seen: number[] = []
  while (seen.length < 4 && (seen.length === 0 || Math.min(...seen) > most)) seen.push(await comings())
  assert.ok(Math.min(...seen) <= most, `it came ${seen.join(', ')} times for ten turns`)
})

test('four processes, sync and async mixed, all get on', async () => {
  const { read } = await crowd(4, 1, (place) => (place % 2 === 0 ? 'sync' : 'async'))
  await turns('200 turns each', read, [0, 1, 2, 3], 200)
})

const others = (parties: number, ...but: number[]): number[] => [...Array(parties).keys()].filter((place) => !but.includes(place))

for (const brake of [sigstop, ...freezers()]) {
  if (typeof brake === 'string') {
    notRun('a frozen waiter stops nobody', brake)
    continue
  }
  for (const how of ['sync', 'async'] as const) {
    test(`whoever is stopped while it stands first stops nobody (${brake.name}, ${how})`, async () => {
      const { peers, path, locker, read } = await crowd(4, 1, () => how)
      await turns('a start', read, others(4), 10)
      for (let round = 0; round < 5; round++) {
        const victim = await stopFirst(peers, path, locker.id, brake)
        const place = peers.indexOf(victim)
        await turns('the others go on', read, others(4, place), 50)
        brake.goOn(victim.pid)
        await turns('it gets its turn again', read, [place], 2)
      }
    })
  }
}

for (const how of ['sync', 'async'] as const) {
  test(`two that are stopped at two times: the others go on, and all do afterwards (${how})`, async () => {
    const { peers, path, locker, read } = await crowd(5, 1, () => how)
    await turns('a start', read, others(5), 10)
    for (let round = 0; round < 3; round++) {
      const one = await stopFirst(peers, path, locker.id, sigstop)
      await turns('the others go on', read, others(5, peers.indexOf(one)), 20)
      const two = await stopFirst(peers, path, locker.id, sigstop, one)
      await turns('the rest goes on', read, others(5, peers.indexOf(one), peers.indexOf(two)), 50)
      for (const { pid } of round % 2 === 0 ? [one, two] : [two, one]) {
        sigstop.goOn(pid)
        await turns('it gets its turn again', read, [peers.findIndex((peer) => peer.pid === pid)], 2)
      }
      await turns('all go on', read, others(5), 20)
    }
  })
}

test.run()
