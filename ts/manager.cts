/// <reference lib="esnext.disposable" preserve="true" />
import { resolve } from 'node:path'
import { LockError, checkInteger, checkOptions, invalidType, outOfRange } from './errors.cjs'
import { Locker, type LockOptions, type Pool, type WaitOptions } from './locker.cjs'
import { CREATED, lastError } from './native.cjs'
import { type MultiGuard, inOrder, lockAll, lockAllSync } from './several.cjs'
import { nativeModule, segmentOf, warnOfAny, type Segment } from './segment.cjs'

const MAX_LOCKS = 2 ** 20
const MODES = ['open-or-create', 'open', 'create'] as const

/** What to open. */
export interface OpenOptions {
  /**
   * The segment's name, [A-Za-z0-9._-]{1,200} and neither '.' nor '..', in /dev/shm/robust-lock-<uid>/,
   * or in the folder that the environment variable ROBUST_LOCK_DIR names. Choose one that no other
   * program chooses.
   */
  name?: string | undefined
  /** Instead of a name: a file path, on a tmpfs. */
  path?: string | undefined
  /**
   * How many locks can be allocated, 1 to 2**20. It only grows: an existing segment takes the larger
   * one. Left out: 2048 for a new segment, what is there for an existing one.
   */
  capacity?: number | undefined
  /** Whether the segment must exist ('open'), must not ('create'), or may ('open-or-create', the default). */
  mode?: 'open-or-create' | 'open' | 'create' | undefined
  /**
   * Ids that are allocated from the first instant, if this call creates the segment: the refresh after
   * a reboot, out of the program's own database. If the segment exists, it is ignored, and
   * `manager.created` is false.
   */
  inUse?: Iterable<number> | undefined
}

function checkName(name: unknown): string {
  if (typeof name !== 'string') throw invalidType('options.name', 'of type string', name)
  if (!/^[A-Za-z0-9._-]{1,200}$/.test(name) || name === '.' || name === '..') {
    throw outOfRange('options.name', '1 to 200 of the characters A-Z a-z 0-9 . _ -, and neither "." nor ".."', name)
  }
  return name
}

function checkPath(path: unknown): string {
  if (typeof path !== 'string') throw invalidType('options.path', 'of type string', path)
  if (path === '' || path.includes('\0')) throw outOfRange('options.path', 'a path, not empty and without null bytes', path)
  return resolve(path)
}

function checkInUse(inUse: unknown): number[] {
  if (inUse === undefined) return []
  if (inUse === null || typeof (inUse as Iterable<unknown>)[Symbol.iterator] !== 'function' || typeof inUse === 'string') {
    throw invalidType('options.inUse', 'an iterable of numbers', inUse)
  }
  return Array.from(inUse as Iterable<unknown>, (id) => checkInteger('options.inUse', id, 0, MAX_LOCKS - 1))
}

/**
 * Opens a segment of locks, or creates it. Processes of one user, in one PID namespace, that open the
 * same segment share its locks.
 *
 * @throws {LockError} with a code that says which of the many things is wrong: see the README.
 * @example
 * const manager = openManager({ name: 'my-tool' })
 */
export function openManager(options: OpenOptions): Manager {
  if (options === undefined) throw invalidType('options', 'of type object', options)
  checkOptions(options)
  const { name, path, capacity, mode = 'open-or-create' } = options
  if ((name === undefined) === (path === undefined)) {
    throw invalidType('options', 'an object with exactly one of the properties name and path', options)
  }
  const validName = name === undefined ? undefined : checkName(name)
  const validPath = path === undefined ? '' : checkPath(path)
  if (capacity !== undefined) checkInteger('options.capacity', capacity, 1, MAX_LOCKS)
  if (typeof mode !== 'string') throw invalidType('options.mode', 'of type string', mode)
  if (!MODES.includes(mode)) throw outOfRange('options.mode', `one of ${MODES.join(', ')}`, mode)
  const inUse = checkInUse(options.inUse)

  const native = nativeModule()
  const folder = process.env['ROBUST_LOCK_DIR'] || undefined
  const file = validName === undefined ? validPath : native.namedPath(validName, MODES.indexOf(mode), folder && resolve(folder))
  if (file == null) throw lastError(native)
  const handle = native.open(file, MODES.indexOf(mode), capacity, inUse)
  if (handle < 0) throw lastError(native)
  const created = native.results[CREATED] === 1
  warnOfAny()
  return new Manager(segmentOf(native, handle, file), file, created)
}

/** An open segment: a pool of locks. */
export class Manager {
  readonly #segment: Segment
  readonly #pool: Pool = { closed: false }

  /** The segment's file, by the path that it was opened with. */
  readonly path: string
  /** Whether this call of `openManager` created it. */
  readonly created: boolean

  /** @internal */
  constructor(segment: Segment, path: string, created: boolean) {
    this.#segment = segment
    this.path = path
    this.created = created
  }

  /** How many locks can be allocated. It grows when any process opens the segment with more. */
  get capacity(): number {
    return this.#segment.native.capacity(this.#segment.handle)
  }

  #open(): Segment {
    if (this.#pool.closed) throw new LockError('ERR_ROBUST_LOCK_CLOSED', `the manager of ${this.path} is closed: open it again`)
    return this.#segment
  }

  /**
   * A Locker out of the native module's ticket: id and generation in one number; below 0 a refusal
   * (-1), or an id without an allocation (-2 - id).
   */
  #locker(ticket: number): Locker {
    if (ticket === -1) throw lastError(this.#segment.native)
    const id = ticket < 0 ? -2 - ticket : ticket % MAX_LOCKS
    const generation = ticket < 0 ? -1 : Math.floor(ticket / MAX_LOCKS)
    this.#segment.warn()
    return new Locker(this.#segment.state(id), generation, this.#pool)
  }

  /**
   * Allocates a lock: the lowest id that is neither allocated nor held by somebody still.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_EXHAUSTED if there is none, with `capacity` and `held`;
   * ERR_ROBUST_LOCK_NO_SPACE if the tmpfs is full.
   */
  allocateLock(): Locker {
    const { native, handle } = this.#open()
    return this.#locker(native.allocate(handle))
  }

  /**
   * The lock of this id, allocated or not. A handle that is got while the id is allocated can free that
   * allocation and no later one.
   *
   * @throws {RangeError} ERR_OUT_OF_RANGE beyond the capacity.
   */
  retrieveLock(id: number): Locker {
    const { native, handle } = this.#open()
    return this.#locker(native.retrieve(handle, checkInteger('id', id, 0, this.capacity - 1)))
  }

  /**
   * Allocates exactly this id, whoever may hold the lock: for a program that restores its ids.
   *
   * @throws {LockError} ERR_ROBUST_LOCK_ALREADY_ALLOCATED.
   * @throws {RangeError} ERR_OUT_OF_RANGE beyond the capacity.
   */
  allocateAndRetrieveLock(id: number): Locker {
    const { native, handle } = this.#open()
    return this.#locker(native.allocateGiven(handle, checkInteger('id', id, 0, this.capacity - 1)))
  }

  /**
   * Takes several locks, all or none, in the order of their ids, which everybody keeps to who uses this:
   * so no circle of waiters comes about. A lock named twice is taken once. The timeout is for all of
   * them together; when it is over, or on an abort, what has been taken is released.
   *
   * @throws what `locker.lock` rejects with, as a rejection.
   * @example
   * const both = await manager.lockAll([from.lockId, to.lockId], { timeout: 1_000 })
   * try { move(from, to) } finally { both.unlock() }
   */
  async lockAll(lockers: Iterable<Locker | number>, options?: LockOptions): Promise<MultiGuard> {
    checkOptions(options)
    return lockAll(this.#inOrder(lockers), options)
  }

  /**
   * As `lockAll`, blocking this thread.
   *
   * @throws what `locker.lockSync` throws.
   */
  lockAllSync(lockers: Iterable<Locker | number>, options?: WaitOptions): MultiGuard {
    checkOptions(options)
    return lockAllSync(this.#inOrder(lockers), options)
  }

  #inOrder(given: unknown): Locker[] {
    const segment = this.#open()
    return inOrder(given, (one) => {
      if (typeof one === 'number') return this.retrieveLock(one)
      if (one instanceof Locker && one.isIn(segment)) return one
      throw invalidType('lockers', 'an iterable of ids and of Lockers of this segment', one)
    })
  }

  /**
   * Frees every allocation, whoever uses it. Dangerous: a process that goes on with an id from before
   * shares its lock with whoever is given that id next, and waits for a stranger. For renumbering: make
   * sure that no process uses the segment (end them all, or let each take a lock of its own at start and
   * check it), call this, allocate an id for each of your objects, write the new ids into the database,
   * and only then let the processes start again.
   */
  freeAllLocks(): void {
    const { native, handle } = this.#open()
    if (!native.freeAll(handle)) throw lastError(native)
    this.#segment.warn()
  }

  /** How many more locks can be allocated. */
  availableLocks(): number {
    const { native, handle } = this.#open()
    return native.available(handle)
  }

  /** The ids that are held at this instant, by any process, in order. It only reads. */
  locksHeld(): number[] {
    const { native, handle } = this.#open()
    return native.locksHeld(handle)
  }

  /**
   * Forgets the manager; never throws. Guards in hand stay valid, pending waits are rejected with
   * ERR_ROBUST_LOCK_CLOSED, and so is every other call. The segment itself stays mapped, shared by all
   * managers of this process that open it again.
   */
  close(): void {
    if (this.#pool.closed) return
    this.#pool.closed = true
    for (const state of this.#segment.states()) {
      for (const task of state.tasks()) {
        if (task.locker.isOf(this.#pool)) {
          state.withdraw(task, new LockError('ERR_ROBUST_LOCK_CLOSED', `the manager of ${this.path} was closed while lock ${state.id} was waited for`))
        }
      }
    }
  }

  /** As `close`. */
  [Symbol.dispose](): void {
    this.close()
  }
}
