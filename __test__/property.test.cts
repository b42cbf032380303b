// Random sequences of calls on one manager, beside a model that is too simple to be wrong.
import * as fc from 'fast-check'
import * as assert from 'uvu/assert'
import { openManager, type Guard, type Locker, type Manager } from 'robust-lock'
import { rejects, throws } from './fixtures/expect.cjs'
import { suite, unique } from './fixtures/suite.cjs'

const test = suite('property')
const CAPACITY = 6

/** A Locker object, and the allocation that it stands for; none if the id was free. */
interface Handle {
  locker: Locker
  allocation: number | undefined
}

interface Held {
  guard: Guard
  through: Locker
}

class Model {
  /** How often each id has been allocated. */
  readonly allocations = Array<number>(CAPACITY).fill(0)
  readonly allocated = new Set<number>()
  readonly held = new Map<number, Held>()
  readonly handles: Handle[] = []
  readonly lastToken = Array<number>(CAPACITY).fill(0)

  /** The lowest id that `allocateLock` may give. */
  get next(): number | undefined {
    return [...Array(CAPACITY).keys()].find((id) => !this.allocated.has(id) && !this.held.has(id))
  }

  allocate(id: number, locker: Locker): void {
    assert.is(locker.id, id)
    this.allocated.add(id)
    this.allocations[id] = (this.allocations[id] as number) + 1
    this.handles.push({ locker, allocation: this.allocations[id] })
  }

  enter(guard: Guard, through: Locker): void {
    assert.is(guard.id, through.id)
    assert.is(guard.ownerDied, false)
    assert.ok(guard.token > (this.lastToken[guard.id] as number))
    this.lastToken[guard.id] = guard.token
    this.held.set(guard.id, { guard, through })
  }
}

type Call = (manager: Manager, model: Model) => unknown

const pick = <T,>(from: T[], n: number): T | undefined => from[n % from.length]

/** One call, chosen by a number: it does the same to the manager and to the model. */
const calls: ((n: number) => Call)[] = [
  () => (manager, model) => {
    const { next } = model
    if (next === undefined) throws(() => manager.allocateLock(), 'ERR_ROBUST_LOCK_EXHAUSTED')
    else model.allocate(next, manager.allocateLock())
  },
  (n) => (manager, model) => {
    const id = n % CAPACITY
    if (model.allocated.has(id)) throws(() => manager.allocateAndRetrieveLock(id), 'ERR_ROBUST_LOCK_ALREADY_ALLOCATED')
    else model.allocate(id, manager.allocateAndRetrieveLock(id))
  },
  (n) => (manager, model) => {
    const id = n % CAPACITY
    const allocation = model.allocated.has(id) ? model.allocations[id] : undefined
    model.handles.push({ locker: manager.retrieveLock(id), allocation })
  },
  (n) => (_manager, model) => {
    const handle = pick(model.handles, n)
    if (handle === undefined) return
    const { locker, allocation } = handle
    if (!model.allocated.has(locker.id)) throws(() => locker.free(), 'ERR_ROBUST_LOCK_NOT_ALLOCATED')
    else if (allocation !== undefined && allocation !== model.allocations[locker.id]) throws(() => locker.free(), 'ERR_ROBUST_LOCK_STALE_HANDLE')
    else {
      locker.free()
      model.allocated.delete(locker.id)
    }
  },
  (n) => (manager, model) => {
    // Seldom: it makes the sequences dull.
    if (n % 5 > 0) return
    manager.freeAllLocks()
    model.allocated.clear()
  },
  (n) => (_manager, model) => {
    const locker = pick(model.handles, n)?.locker
    if (locker === undefined) return
    if (model.held.has(locker.id)) throws(() => locker.lockSync(), 'ERR_ROBUST_LOCK_WOULD_DEADLOCK')
    else model.enter(locker.lockSync(), locker)
  },
  (n) => async (_manager, model) => {
    const locker = pick(model.handles, n)?.locker
    if (locker === undefined) return
    if (model.held.has(locker.id)) await rejects(locker.lock({ timeout: 0 }), 'ERR_ROBUST_LOCK_TIMEOUT')
    else model.enter(await locker.lock(), locker)
  },
  (n) => (_manager, model) => {
    const locker = pick(model.handles, n)?.locker
    if (locker === undefined) return
    const guard = locker.tryLock()
    assert.is(guard === undefined, model.held.has(locker.id))
    if (guard !== undefined) model.enter(guard, locker)
  },
  (n) => (_manager, model) => {
    const locker = pick(model.handles, n)?.locker
    if (locker === undefined) return
    const held = model.held.get(locker.id)
    if (held === undefined) return throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
    if (held.through !== locker) return throws(() => locker.unlock(), 'ERR_ROBUST_LOCK_NOT_OWNER')
    locker.unlock()
    model.held.delete(locker.id)
    return throws(() => held.guard.unlock(), 'ERR_ROBUST_LOCK_NOT_HELD')
  },
  (n) => (_manager, model) => {
    const held = pick([...model.held.values()], n)
    if (held === undefined) return
    if (n % 2 === 0) held.guard.unlock()
    else held.guard[Symbol.dispose]()
    model.held.delete(held.guard.id)
  },
]

test('a manager does what a simple model of it does', async () => {
  const steps = fc.array(fc.tuple(fc.nat(calls.length - 1), fc.nat(1000)), { minLength: 20, maxLength: 120 })
  const property = fc.asyncProperty(steps, async (sequence) => {
    const manager = openManager({ name, capacity: CAPACITY })
    const model = new Model()
    try {
      for (const [call, n] of sequence) {
        await calls[call]?.(n)(manager, model)
        assert.is(manager.availableLocks(), CAPACITY - model.allocated.size)
        assert.equal(manager.locksHeld(), [...model.held.keys()].sort())
      }
    } finally {
      // The next sequence begins with the same segment: mapping 256 MiB each time is not needed.
      for (const { guard } of model.held.values()) guard.unlock()
      manager.freeAllLocks()
      manager.close()
    }
  })
  const name = unique()
  await fc.assert(property, { numRuns: 500 })
})

test('the tasks of a thread are granted in order, whichever are called off', async () => {
  const locker = openManager({ name: unique() }).allocateLock()
  /** 0: a task joins. 1: one that waits is called off. 2: the holder lets go. 3: a tryLock. */
  const steps = fc.array(fc.tuple(fc.nat(3), fc.nat(1000)), { minLength: 10, maxLength: 80 })
  const property = fc.asyncProperty(steps, async (sequence) => {
    const waiting: { task: number; abort: AbortController }[] = []
    const expected: number[] = []
    const granted: number[] = []
    const fates: Promise<unknown>[] = []
    let holder: Guard | undefined = locker.lockSync()
    let tasks = 0
    for (const [step, n] of sequence) {
      if (step === 0) {
        const [task, abort] = [tasks++, new AbortController()]
        waiting.push({ task, abort })
        // Each lets go at once: the next one is granted within the same turn.
        fates.push(locker.withLock(() => granted.push(task), { signal: abort.signal }).catch((reason) => assert.is(reason, task)))
      } else if (step === 1 && waiting.length > 0) {
        const [{ task, abort }] = waiting.splice(n % waiting.length, 1) as [(typeof waiting)[0]]
        abort.abort(task)
      } else if (step === 2) {
        holder?.unlock()
        holder = undefined
        expected.push(...waiting.splice(0).map(({ task }) => task))
        await Promise.all(fates)
        assert.equal(granted, expected)
        holder = locker.lockSync()
      } else {
        assert.is(locker.tryLock(), undefined)
      }
    }
    holder?.unlock()
    await Promise.all(fates)
    expected.push(...waiting.map(({ task }) => task))
    assert.equal(granted, expected)
    locker.lockSync().unlock()
  })
  await fc.assert(property, { numRuns: 300 })
})

test.run()
