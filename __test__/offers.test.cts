// What a thread does with its helpers' offers: early ones, for which it is called before the lock is free, and those that
// it comes too late for.
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import { open, release, take } from './fixtures/jobs.cjs'
import { ProcessPeer } from './fixtures/peers.cjs'
import { heldElsewhere, holderOfFile, isFree, segment, type Place } from './fixtures/place.cjs'
import { isGateAwaited, isWaitedFor, offers } from './fixtures/segment.cjs'
import { notRun, suite } from './fixtures/suite.cjs'
import { patience, until } from './fixtures/within.cjs'

const test = suite('offers')

interface Native {
  takeOffers(): number[]
  keepAlive(on: boolean): void
  arm(segment: number, id: number): boolean
  want(segment: number, id: number): boolean
  standDown(segment: number, id: number): void
  tryLock(key: number): number | undefined
  tryFor(key: number, ms: number): number | undefined
}

const BUSY = 0
/** How long an early offer is waited for, in ms. */
const EARLY_PATIENCE = 0.4

/** The native module as this thread has it: what is put into it is called instead. */
function nativeModule(): Native {
  const { load } = require(join(__dirname, '..', '..', 'dist', 'native.cjs')) as { load: (...callbacks: (() => void)[]) => Native }
  return load(() => {}, () => {})
}

/** Calls `heard` with each verdict on an early offer, until `done`; beside a peer that takes these locks in a loop. */
async function earlyOffers(place: Place, ids: number[], heard: (verdict: number | undefined) => boolean, own: () => Promise<unknown>): Promise<void> {
  const native = nativeModule()
  const { tryFor } = native
  let done = false
  native.tryFor = (key, ms) => {
    const verdict = tryFor(key, ms)
    if (ms === EARLY_PATIENCE) done ||= heard(verdict)
    return verdict
  }
  const peer = new ProcessPeer()
  await open(peer, place.options)
  try {
    peer.launch(async ({ locker, tell }, ids) => {
      tell('begins')
      const several = ids.length > 1
      const turn = (): Promise<unknown> => new Promise((resolve) => setImmediate(resolve))
      await Promise.all(ids.map(async (id) => {
        for (;;) {
          const guard = await locker(id).lock()
          if (several) await turn()
          else for (const end = performance.now() + 0.05; performance.now() < end; );
          guard.unlock()
          if (several) await turn()
        }
      }))
    }, ids)
    await peer.hears('begins')
    const begun = performance.now()
    while (!done) {
      await own()
      assert.ok(performance.now() - begun < 50_000, 'early offers are made')
    }
  } finally {
    native.tryFor = tryFor
  }
}

test('a lock() that nobody else wants asks for no helper, nor for a call of one', async () => {
  const { locker } = segment()
  const native = nativeModule()
  const { want, arm, standDown, keepAlive } = native
  const asked: string[] = []
  native.want = (...args) => (asked.push('want'), want(...args))
  native.arm = (...args) => (asked.push('arm'), arm(...args))
  native.standDown = (...args) => (asked.push('standDown'), standDown(...args))
  native.keepAlive = (on) => (asked.push('keepAlive'), keepAlive(on))
  try {
    for (let i = 0; i < 1_000; i++) (await locker.lock()).unlock()
    assert.equal(asked, [])
    // And one that waits does.
    const guard = await locker.lock()
    const next = locker.lock()
    guard.unlock()
    ;(await next).unlock()
    assert.ok(asked.includes('keepAlive'))
  } finally {
    Object.assign(native, { want, arm, standDown, keepAlive })
  }
})

test('where holds are short, a thread comes before the lock is free, and waits for it itself', async () => {
  if (patience > 1) return notRun('early offers', 'on an emulated machine no thread comes within 0.4 ms')
  const place = segment()
  let accepted = 0
  const heard = (verdict: number | undefined): boolean => verdict === undefined && ++accepted === 20
  await earlyOffers(place, [place.locker.id], heard, async () => {
    const guard = await place.locker.lock()
    assert.is(guard.ownerDied, false)
    guard.unlock()
  })
})

test('one early offer a turn of the loop is waited for, however many locks are next', async () => {
  if (patience > 1) return notRun('early offers', 'on an emulated machine no thread comes within 0.4 ms')
  const place = segment()
  const lockers = [place.locker, ...Array.from({ length: 15 }, () => place.manager.allocateLock())]
  let [calls, inTurn, most] = [0, 0, 0]
  const heard = (): boolean => {
    if (inTurn++ === 0) setImmediate(() => (inTurn = 0))
    most = Math.max(most, inTurn)
    return ++calls === 300
  }
  await earlyOffers(place, lockers.map(({ id }) => id), heard, () => Promise.all(lockers.map((locker) => locker.withLock(() => turn()))))
  assert.is(most, 1)
})

test('a thread that comes too late, and finds the lock taken, waits for it itself', async () => {
  const place = segment()
  const { locker, manager } = place
  const native = nativeModule()
  const { takeOffers, tryLock, tryFor } = native
  const cell = new Int32Array(new SharedArrayBuffer(4))
  const attempt = async (): Promise<string> => {
    const holder = await holderOfFile(place)
    let call = 0
    const tries: string[] = []
    native.takeOffers = () => (call++, takeOffers())
    // Somebody else has it.
    native.tryLock = () => (tries.push(`${call}: at once`), BUSY)
    native.tryFor = (key, ms) => {
      // Its helper stands at the gate meanwhile. (Not for long, as the lock is free by now: on an emulated machine that is
      // too short to be seen.)
      const end = performance.now() + 500
      while (patience === 1 && !isWaitedFor(manager.path, locker.id) && performance.now() < end);
      if (performance.now() >= end) tries.push('no helper')
      tries.push(`${call}: for ${ms > 0 && ms <= 8 ? 'at most 8' : ms} ms`)
      return tryFor(key, ms)
    }
    try {
      const wait = locker.lock()
      holder.letGo()
      // Until the offer has passed: it stands for 5 ms.
      Atomics.wait(cell, 0, 0, 100 * patience)
      for (let turns = 0; turns < 20 && tries.length === 0; turns++) await turn()
      Object.assign(native, { tryLock })
      ;(await wait).unlock()
      await holder.done
    } finally {
      Object.assign(native, { takeOffers, tryLock, tryFor })
    }
    return tries.join(', ')
  }
  const seen: string[] = []
  const wanted = '1: at once, 1: for at most 8 ms'
  // The holder may take its time where others want the processors: so it may try again.
  while (seen.length < 40 && !seen.includes(wanted)) seen.push(await attempt())
  assert.ok(seen.includes(wanted), seen.join('; '))
  await isFree(place)
})

test('a thread that comes too late waits no longer than the time of its task', async () => {
  const place = segment()
  const { locker } = place
  const native = nativeModule()
  const { tryLock, tryFor } = native
  const cell = new Int32Array(new SharedArrayBuffer(4))
  // Less than the 8 that it would wait otherwise.
  const [late, spare] = [100 * patience, 5]
  /** Whether it was tried, for what was left of its time. */
  const attempt = async (): Promise<boolean> => {
    const holder = await holderOfFile(place)
    let tried: number | undefined
    let most = Infinity
    native.tryLock = () => BUSY
    native.tryFor = (key, ms) => {
      tried = ms
      return tryFor(key, ms)
    }
    const begun = performance.now()
    try {
      const wait = locker.lock({ timeout: late + spare }).then((guard) => guard.unlock(), () => {})
      const deadline = performance.now() + late + spare
      holder.letGo()
      Atomics.wait(cell, 0, 0, Math.max(0, late + begun - performance.now()))
      most = deadline - performance.now()
      await wait
      await holder.done
    } finally {
      Object.assign(native, { tryLock, tryFor })
    }
    if (tried === undefined || most > 7) return false
    assert.ok(tried > 0 && tried <= most, `${tried} ms, of ${most}`)
    return true
  }
  let done = false
  // Its time may be over before that.
  for (let attempts = 0; !done && attempts < 20; attempts++) done = await attempt()
  assert.ok(done)
  await isFree(place)
})

test('the waits in place of a turn of the loop share one budget, and what they have cost is no lateness', async () => {
  const place = segment()
  const { manager, options, locker } = place
  const lockers = [locker, ...Array.from({ length: 7 }, () => manager.allocateLock())]
  const spares = [manager.allocateLock().id, manager.allocateLock().id]
  const holder = new ProcessPeer()
  await open(holder, options)
  for (const { id } of lockers) await take(holder, id)
  const native = nativeModule()
  const { takeOffers, want, tryLock, tryFor } = native
  const cell = new Int32Array(new SharedArrayBuffer(4))
  const block = (ms: number): void => void Atomics.wait(cell, 0, 0, ms)
  let handle = -1
  native.want = (segment, id) => want((handle = segment), id)
  const over = new AbortController()
  const waits = lockers.map((one) => one.lock({ signal: over.signal }).catch(() => {}))
  native.want = want
  /** A helper for a free lock calls this thread at once. */
  const call = (spare: number): void => void want(handle, spare)
  let [calls, waited, ended, tooLong] = [0, 0, 0, 0]
  const sums: number[] = []
  native.takeOffers = () => {
    takeOffers()
    calls++
    // The second call of a turn: something else has taken a while in between.
    if (waited > 0) block(5)
    return lockers.flatMap(({ id }) => [handle, id, 100, 0])
  }
  native.tryLock = () => BUSY
  native.tryFor = (_, ms) => {
    if (waited === 0) {
      // Every other time: so the next turn comes soon after this one's waits.
      if (sums.length % 2 === 0) call(spares[1] as number)
      tooLong = Math.max(tooLong, ms - (performance.now() - ended))
    }
    waited += ms
    block(ms)
    ended = performance.now()
    return BUSY
  }
  try {
    for (let round = 0; round < 20; round++) {
      const before = calls
      call(spares[0] as number)
      while (calls === before) await turn()
      sums.push(waited)
      // Immediates of one turn come in order, the one that ends the turn among them.
      await turn()
      for (const spare of spares) native.standDown(handle, spare)
      waited = 0
    }
  } finally {
    Object.assign(native, { takeOffers, tryLock, tryFor })
  }
  over.abort()
  await Promise.all(waits)
  assert.ok(tooLong < 0.01, `${tooLong} ms longer than anything else had taken since the wait before`)
  assert.ok(Math.max(...sums) > 4, 'it was waited')
  assert.ok(Math.max(...sums) <= 8, sums.join(', '))
})

test('what is cut off before an offer is heard of is let go of by its call, and waited for again', async () => {
  const place = segment()
  const { locker, manager } = place
  const native = nativeModule()
  const { want } = native
  let handle = -1
  native.want = (segment, id) => want((handle = segment), id)
  const holder = await holderOfFile(place)
  const wait = locker.lock()
  native.want = want
  await until('it is the next one', () => isWaitedFor(manager.path, locker.id))
  const before = offers(manager.path, locker.id)
  holder.letGo()
  while (offers(manager.path, locker.id) === before);
  // As `tryLock()` would, and then the end of the stack, or of a vm's time, comes. No other call of this thread follows.
  while (native.tryLock(handle * 2 ** 20 + locker.id) === BUSY);
  native.standDown(handle, locker.id)
  const guard = await wait
  assert.is(guard.ownerDied, false)
  guard.unlock()
  await holder.done
  await isFree(place)
})

test('who takes the lock while a signal is asked, as an offer comes, sends no helper for it', async () => {
  const place = segment()
  const { locker } = place
  const native = nativeModule()
  const { arm } = native
  const holder = await heldElsewhere(place)
  let asks = false
  let guard: ReturnType<typeof locker.tryLock>
  const signal = {
    get aborted(): boolean {
      if (asks) guard ??= locker.tryLock()
      return false
    },
    addEventListener(): void {},
    removeEventListener(): void {},
  } as unknown as AbortSignal
  let arms = 0
  native.arm = (...args) => (arms++, arm(...args))
  try {
    const wait = locker.lock({ signal })
    asks = true
    await release(holder, locker.id)
    await until('an offer comes, and it is asked', () => guard !== undefined)
    await turn()
    assert.is(arms, 0)
    guard?.unlock()
    ;(await wait).unlock()
  } finally {
    native.arm = arm
  }
  await isFree(place)
})

/** Whether this thread has the lock before one that stands behind its helper, if so many of its tries are in vain; undefined
 * if it has missed an offer. */
async function isFirst(place: Place, vain: number): Promise<boolean | undefined> {
  const { locker, manager, options } = place
  const native = nativeModule()
  const { takeOffers, tryLock } = native
  const holder = await heldElsewhere(place)
  const next = new ProcessPeer()
  await open(next, options)
  let tries = 0
  let isLate = false
  native.tryLock = (key) => (tries++ < vain ? BUSY : tryLock(key))
  native.takeOffers = () => {
    const told = takeOffers()
    isLate ||= told.some((ms, i) => i % 4 === 2 && ms > 0)
    return told
  }
  try {
    const wait = locker.lock()
    await until('it is the next one', () => isWaitedFor(manager.path, locker.id))
    const takeAndRelease = async (): Promise<number> => {
      const { token } = await take(next, locker.id)
      await release(next, locker.id)
      return token
    }
    const taken = takeAndRelease()
    await until('somebody stands behind it', () => isGateAwaited(manager.path, locker.id))
    await release(holder, locker.id)
    const guard = await wait
    guard.unlock()
    const isBefore = guard.token < (await taken)
    return isLate ? undefined : isBefore
  } finally {
    Object.assign(native, { takeOffers, tryLock })
  }
}

test('a thread that comes in time, and finds the lock taken, keeps its place', async () => {
  if (patience > 1) return notRun('the place after an offer in vain', 'on an emulated machine a thread may come too late each time')
  const place = segment()
  const seen: (boolean | undefined)[] = []
  const first = (): number => seen.filter((one) => one === true).length
  // Where others want the processors it may not be.
  while (seen.length < 30 && first() < 8) seen.push(await isFirst(place, 1))
  const later = seen.filter((one) => one === false).length
  assert.ok(first() >= 8 && later <= 2, `${first()} times, and ${later} times later`)
  await isFree(place)
})

test('it keeps its place for one try: those behind it do not wait for as long as others are faster', async () => {
  if (patience > 1) return notRun('the place after offers in vain', 'on an emulated machine a thread may come too late each time')
  const place = segment()
  const seen: (boolean | undefined)[] = []
  while (seen.length < 20 && !seen.includes(false)) seen.push(await isFirst(place, 4))
  assert.ok(seen.includes(false), `the first one, or late: ${seen.join()}`)
  await isFree(place)
})

test('a thread that has had the lock has missed no offer', async () => {
  if (patience > 1) return notRun('answered offers', 'on an emulated machine an offer may pass at any time')
  const place = segment()
  const { locker, manager } = place
  const native = nativeModule()
  const { takeOffers } = native
  const made = (): number => offers(manager.path, locker.id)
  /** How late the calls were that came before another offer was made; none if the offer may have passed, which stands for 0.3 ms
   * at least. */
  const round = async (): Promise<number[]> => {
    const holder = await holderOfFile(place)
    const late: number[] = []
    let answered = -1
    native.takeOffers = () => {
      const told = takeOffers()
      if (made() === answered) late.push(Math.max(0, ...told.filter((_, i) => i % 4 === 2)))
      return told
    }
    try {
      const wait = locker.lock()
      await until('it is the next one', () => isWaitedFor(manager.path, locker.id))
      const before = made()
      let [begun, now] = [0, performance.now()]
      holder.letGo()
      // An offer is made, and this thread has the lock before it hears of that. Before the last look at no offer:
      do [begun, now] = [now, performance.now()]
      while (made() === before)
      let guard
      while ((guard = locker.tryLock()) === undefined);
      if (performance.now() - begun < 0.3) {
        answered = made()
        for (let turns = 0; turns < 100 && late.length === 0; turns++) await turn()
      }
      guard.unlock()
      ;(await wait).unlock()
      await holder.done
    } finally {
      native.takeOffers = takeOffers
    }
    return late
  }
  let told = 0
  for (let rounds = 0; told < 8 && rounds < 400; rounds++) {
    const late = await round()
    assert.ok(late.every((ms) => ms === 0), `${late.join(', ')} ms`)
    if (late.length > 0) told++
  }
  assert.is(told, 8)
  await isFree(place)
})

test.run()
