// Waiting in turn: nobody starves, and a process that is stopped while it waits stops nobody.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { openManager } from 'robust-lock'
import { open } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import type { Scope } from './fixtures/scope.cjs'
import { folder, suite, unique } from './fixtures/suite.cjs'
import { until } from './fixtures/within.cjs'

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
    const bytes = readFileSync(file)
    return peers.map((_, place) => ({ turns: bytes.readDoubleLE(place * 16), waits: bytes.readDoubleLE(place * 16 + 8) === 1 }))
  }
  return { locker, peers, read }
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

test('four processes, sync and async mixed, all get on', async () => {
  const { read } = await crowd(4, 1, (place) => (place % 2 === 0 ? 'sync' : 'async'))
  await turns('200 turns each', read, [0, 1, 2, 3], 200)
})

for (const how of ['sync', 'async'] as const) {
  test(`processes that are stopped while they wait stop nobody (${how})`, async () => {
    const { peers, read } = await crowd(4, 1, () => how)
    await turns('a start', read, [0, 1, 2, 3], 10)
    let stoppedWaiting = 0
    for (let round = 0; stoppedWaiting < 12; round++) {
      assert.ok(round < 200, 'a stop finds a waiting process now and then')
      const place = round % 4
      const peer = peers[place] as ProcessPeer
      process.kill(peer.pid, 'SIGSTOP')
      await until('the stop', () => /^State:\s+T/m.test(readFileSync(`/proc/${peer.pid}/status`, 'utf8')))
      const others = [0, 1, 2, 3].filter((other) => other !== place)
      if (read()[place]?.waits === true) {
        stoppedWaiting++
        // A stopped JS thread can have been handed the lock already: then it is a stopped holder.
        const before = read()
        await Promise.race([
          turns('the others go on', read, others, 50),
          new Promise((resolve) => setTimeout(resolve, 2_000)),
        ])
        if (others.every((other) => read()[other]?.turns === before[other]?.turns)) stoppedWaiting--
        else await turns('the others go on', read, others, 50)
      }
      process.kill(peer.pid, 'SIGCONT')
      await turns('it gets its turn again', read, [place], 1)
    }
  })
}

test('two that are stopped at two times: the others go on, and all do afterwards', async () => {
  const { peers, read } = await crowd(5, 1, () => 'sync')
  await turns('a start', read, [0, 1, 2, 3, 4], 10)
  for (let round = 0; round < 6; round++) {
    const stopped = [round % 5, (round + 1) % 5]
    let holder = false
    for (const place of stopped) {
      process.kill((peers[place] as ProcessPeer).pid, 'SIGSTOP')
      const pid = (peers[place] as ProcessPeer).pid
      await until('the stop', () => /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')))
      holder ||= read()[place]?.waits !== true
      if (!holder) {
        const running = [0, 1, 2, 3, 4].filter((other) => !stopped.includes(other))
        const before = read()
        await Promise.race([turns('the others go on', read, running, 50), new Promise((resolve) => setTimeout(resolve, 2_000))])
        holder = running.every((other) => read()[other]?.turns === before[other]?.turns)
      }
    }
    for (const place of stopped) process.kill((peers[place] as ProcessPeer).pid, 'SIGCONT')
    await turns('all go on', read, [0, 1, 2, 3, 4], 20)
  }
})

test.run()
