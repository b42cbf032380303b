import { clearTimeout, now, setTimeout } from './clock.cjs'
import { LockError } from './errors.cjs'
import { Guard } from './guard.cjs'
import type { Locker } from './locker.cjs'
import type { Segment } from './segment.cjs'
import { abortOf, forget, listen, type Cancellable } from './signals.cjs'
import { BUSY, EARLY, HANDED_OVER, OWN, OWNER_DIED, STALE, STALE_SEEN, TIMED_OUT, TOKEN, refusal, unanswered, type Native } from './native.cjs'

/** setTimeout takes no more: it would fire at once. */
const LONGEST_TIMER = 2 ** 31 - 1
/** Not worth a sleep, in ms. */
const LEAST_WAIT_IN_PLACE = 0.1

/** Whether a call has acquired the lock: all is well, or would be if its last owner had not died. */
function isAcquired(verdict: number | undefined): boolean {
  return verdict === undefined || verdict === OWNER_DIED
}

function noThread(id: number): LockError {
  return new LockError('ERR_ROBUST_LOCK_NO_MEMORY', `no thread could be started to wait for lock ${id}: the process is at a limit`)
}

/** One pending `lock()`, in the queue of its lock. */
export class Task implements Cancellable {
  previous: Task | undefined
  next: Task | undefined
  /** In the queue, and it may be granted or withdrawn. */
  queued = false
  #deadline = Infinity
  #timer: NodeJS.Timeout | undefined

  constructor(
    readonly state: LockState,
    readonly locker: Locker,
    readonly resolve: (guard: Guard) => void,
    readonly reject: (reason: unknown) => void,
    readonly signal: AbortSignal | undefined,
    readonly timeout: number,
  ) {}

  /** From now on it may be called off. */
  listen(): void {
    if (this.signal !== undefined) listen(this.signal, this)
    if (this.timeout === Infinity) return
    this.#deadline = now() + this.timeout
    this.#setTimer()
  }

  /** What is left of its time, in ms. */
  get left(): number {
    return this.#deadline - now()
  }

  #setTimer(): void {
    this.#timer = setTimeout(() => {
      if (this.left > 0) this.#setTimer()
      else this.state.timedOut(this)
    }, Math.min(Math.max(Math.ceil(this.left), 1), LONGEST_TIMER))
  }

  calledOff(reason: unknown): void {
    this.state.withdraw(this, reason)
  }

  /** Nothing of it stays behind, however it ends. */
  settle(): void {
    clearTimeout(this.#timer)
    if (this.signal !== undefined) forget(this.signal, this)
  }
}

/**
 * A lock as this thread sees it: the guard that is out, and the tasks that wait, first in, first out.
 *
 * While tasks wait and this thread does not own the lock, its helper is armed, waits or offers, or
 * the call that tells of an offer is on its way. So whatever ends without the lock arms it again, and
 * it is not armed while this thread owns the lock: it would close the gate against hand-overs.
 */
export class LockState {
  /**
   * The token of the guard that is out, 0 if this thread does not own the lock. No two acquisitions of a
   * lock have the same, so it says which guard that is. It is replaced, not emptied, when the lock is
   * handed over.
   */
  token = 0
  /** That guard was told of an owner's death, and nobody has declared the data repaired. */
  unrepaired = false
  /** The Locker object that acquired it, now or last. */
  ownerLocker: Locker | undefined
  #first: Task | undefined
  #last: Task | undefined
  /** A helper may be out for this lock. */
  #armed = false

  readonly #key: number
  readonly #native: Native

  constructor(
    readonly segment: Segment,
    readonly id: number,
  ) {
    this.#key = segment.handle * 2 ** 20 + id
    this.#native = segment.native
  }

  /** Whether this thread owns the lock. */
  get isOwned(): boolean {
    return this.token !== 0
  }

  /** The pending tasks, in order, as they are now. */
  tasks(): Task[] {
    const tasks = []
    for (let task = this.#first; task !== undefined; task = task.next) tasks.push(task)
    return tasks
  }

  /** One try that overtakes everybody, or none if this thread has the lock. */
  tryLock(locker: Locker): Guard | undefined {
    if (this.isOwned) return undefined
    const verdict = this.#native.tryLock(this.#key)
    if (isAcquired(verdict)) return this.#enter(locker, verdict !== undefined)
    if (verdict === BUSY || verdict === OWN) return undefined
    throw refusal(this.#native, verdict, this.id)
  }

  /** The first try of a wait; or the only one, which overtakes everybody. */
  #tryNow(timeout: number): number | undefined {
    return timeout === 0 ? this.#native.tryLock(this.#key) : this.#native.tryInTurn(this.#key)
  }

  lockSync(locker: Locker, timeout: number): Guard {
    if (this.isOwned) throw refusal(this.#native, OWN, this.id)
    const verdict = this.#tryNow(timeout)
    if (isAcquired(verdict)) return this.#enter(locker, verdict !== undefined)
    if (verdict === BUSY && timeout === 0) throw refusal(this.#native, TIMED_OUT, this.id)
    if (verdict !== BUSY) throw refusal(this.#native, verdict, this.id)
    return this.#block(locker, timeout)
  }

  #block(locker: Locker, timeout: number): Guard {
    const native = this.#native
    // The native call stands this thread's helper down, and sends it again if it ends without the lock.
    try {
      const verdict = timeout === Infinity ? native.lockSync(this.#key) : native.lockSyncFor(this.#key, timeout)
      if (isAcquired(verdict)) return this.#enter(locker, verdict !== undefined)
      throw refusal(native, verdict, this.id)
    } finally {
      // Once more from here, where it is noticed if no thread can be had. (The end of a vm's time comes
      // through without this.)
      this.#goOn()
      if (native.results[STALE_SEEN] !== 0) {
        native.results[STALE_SEEN] = 0
        this.segment.warn()
      }
    }
  }

  lock(locker: Locker, signal: AbortSignal | undefined, timeout: number): Promise<Guard> {
    let verdict: number | undefined = BUSY
    if (!this.isOwned && this.#first === undefined) {
      verdict = this.#tryNow(timeout)
      if (isAcquired(verdict)) return Promise.resolve(this.#enter(locker, verdict !== undefined))
    }
    return this.#wait(locker, signal, timeout, verdict)
  }

  /** After one try, which came to that, or none. */
  #wait(locker: Locker, signal: AbortSignal | undefined, timeout: number, verdict: number | undefined): Promise<Guard> {
    if (verdict !== BUSY && verdict !== OWN) return Promise.reject(refusal(this.#native, verdict, this.id))
    if (timeout === 0) return Promise.reject(refusal(this.#native, TIMED_OUT, this.id))
    return new Promise((resolve, reject) => {
      this.#append(new Task(this, locker, resolve, reject, signal, timeout))
    })
  }

  #enter(locker: Locker, ownerDied: boolean): Guard {
    if (this.#armed) this.#standDown()
    const { results } = this.#native
    const token = results[TOKEN] as number
    // No answer at all must not pass for "all is well".
    if (token === 0) throw unanswered(this.id)
    const guard = new Guard(this, this.id, ownerDied, token)
    // Not the guard itself: a new object in an old one costs a write barrier and a mark for the garbage
    // collector. And read from the guard: so the compiler knows what it is, and that `Promise.resolve`
    // need not look for a `then`.
    this.token = guard.token
    this.unrepaired = guard.ownerDied
    if (this.ownerLocker !== locker) this.ownerLocker = locker
    // From the new guard on nothing is called, so nothing can fail.
    results[TOKEN] = 0
    return guard
  }

  /** Releases the lock, or hands it to the task that waits longest on this thread. */
  release(): void {
    if (this.unrepaired || this.#first !== undefined) {
      const { token } = this
      this.#dropAborted()
      // A signal's own code may have released it meanwhile: then it is somebody else's.
      if (this.token !== token) return
      this.#releaseAs((this.unrepaired ? 1 : 0) | (this.#first === undefined ? 0 : 2))
      return
    }
    const verdict = this.#native.unlock(this.#key)
    if (verdict !== undefined) throw refusal(this.#native, verdict, this.id)
    this.token = 0
  }

  #releaseAs(flags: number): void {
    const verdict = this.#native.unlockAs(this.#key, flags)
    if (verdict === HANDED_OVER || verdict === OWNER_DIED) {
      this.#grant(verdict === OWNER_DIED)
      return
    }
    if (verdict !== undefined) throw refusal(this.#native, verdict, this.id)
    this.token = 0
    // The native call has sent the helper.
    if (this.#first !== undefined) this.#armed = true
  }

  /**
   * Gives the lock, which this thread owns, to the first task. What can fail (the end of the stack, or of
   * a vm's time) comes first, the promise included: then the task waits on, and the guard that is out, if
   * the lock is handed over, has it still. (A hook of async_hooks sees the promise settled, and may call off
   * this very task, which is too late for that. It must not release this very lock: that is not guarded against.)
   */
  #grant(ownerDied: boolean): void {
    const task = this.#first as Task
    const { results } = this.#native
    if (this.#armed) this.#standDown()
    const guard = new Guard(this, this.id, ownerDied, results[TOKEN] as number)
    if (guard.token === 0) throw unanswered(this.id)
    results[TOKEN] = 0
    task.resolve(guard)
    // From here on nothing is called before all is noted.
    this.token = guard.token
    this.unrepaired = ownerDied
    this.ownerLocker = task.locker
    if (task.queued) {
      task.queued = false
      this.#first = task.next
      if (task.next === undefined) this.#last = undefined
      else task.next.previous = undefined
      task.next = undefined
      const { waits } = this.segment
      waits.pending--
      if (waits.pending === 0) this.#native.keepAlive(false)
    }
    // Last, when all is noted: a signal may be anybody's code, which may lock and unlock anything. And what fails
    // here, at the end of the stack, is nothing to the caller, who has done what he was to do.
    try {
      task.settle()
    } catch {
      // A timer and a listener stay, which find the task gone.
    }
  }

  /** As above: a task stands in the queue when all is done for it, or not at all. */
  #append(task: Task): void {
    const { waits } = this.segment
    try {
      task.listen()
      if (waits.pending === 0) this.segment.stayAlive()
      if (!this.isOwned && !this.#send('want')) throw noThread(this.id)
    } catch (error) {
      if (waits.pending === 0) this.#native.keepAlive(false)
      task.settle()
      throw error
    }
    task.queued = true
    task.previous = this.#last
    if (this.#last === undefined) this.#first = task
    else this.#last.next = task
    this.#last = task
    waits.pending++
  }

  /** Takes a task out of the queue, wherever it stands, and rejects it. */
  withdraw(task: Task, reason: unknown): void {
    if (!task.queued) return
    task.queued = false
    if (task.previous === undefined) this.#first = task.next
    else task.previous.next = task.next
    if (task.next === undefined) this.#last = task.previous
    else task.next.previous = task.previous
    task.previous = task.next = undefined
    const { waits } = this.segment
    waits.pending--
    task.reject(reason)
    if (waits.pending === 0) this.#native.keepAlive(false)
    if (this.#first === undefined && this.#armed) this.#standDown()
    // Last, as above.
    try {
      task.settle()
    } catch {
      // As above.
    }
  }

  /** A signal calls its listeners in order, and one before ours may be the reason why a task's turn comes. */
  #dropAborted(): void {
    for (let task = this.#first; task !== undefined; task = this.#first) {
      const abort = abortOf(task.signal)
      if (abort === undefined) return
      this.withdraw(task, abort.reason)
    }
  }

  /** The task's time is over: one last try, unless another task of this thread waits ahead. */
  timedOut(task: Task): void {
    if (!task.queued) return
    if (task !== this.#first || this.isOwned || !this.#tryForFirst()) {
      this.withdraw(task, refusal(this.#native, TIMED_OUT, this.id))
    }
  }

  #rejectAll(reason: unknown): void {
    while (this.#first !== undefined) this.withdraw(this.#first, reason)
  }

  /** One try for the first task, of so many ms; it ends an offer. True if nobody is left to try for. */
  #tryForFirst(patience = 0): boolean {
    this.#dropAborted()
    if (this.#first === undefined) return true
    const verdict = patience > 0 ? this.#native.tryFor(this.#key, patience) : this.#native.tryLock(this.#key)
    if (isAcquired(verdict)) {
      this.#grant(verdict !== undefined)
      return true
    }
    if (verdict === BUSY || verdict === OWN) return false
    this.#rejectAll(refusal(this.#native, verdict, this.id))
    return true
  }

  /**
   * The helper has an offer: the gate is closed for our sake, and main is free, or will be soon and may be
   * waited for, `patience` ms. Or it had one, and we have come too late. True if
   * the lock was not to be had, and the helper is on its way again.
   */
  offered(instead: number, patience = 0): boolean {
    if (instead === STALE) this.segment.warn()
    else if (instead !== BUSY && instead !== EARLY) {
      this.#rejectAll(refusal(this.#native, instead, this.id))
      return false
    }
    if (this.#first === undefined || this.isOwned) {
      this.#standDown()
      return false
    }
    // A signal's own code may have taken it.
    return !this.#tryForFirst(patience) && !this.isOwned && this.#arm()
  }

  /**
   * Waits for the lock itself, on this thread and past the gate, `patience` ms at most; its helper has its place there
   * meanwhile. Who comes too late pays with it, rather than making the others wait. Returns what it waited.
   */
  waitInPlace(patience: number): number {
    this.#dropAborted()
    if (this.#first === undefined || this.isOwned) return 0
    const ms = Math.min(patience, this.#first.left)
    if (ms < LEAST_WAIT_IN_PLACE) return 0
    const begun = now()
    if (!this.#tryForFirst(ms)) this.#goOn()
    return now() - begun
  }

  /** Whatever has gone wrong: who waits is waited for. */
  #goOn(): void {
    if (this.#first !== undefined && !this.isOwned) this.#arm()
  }

  /** After a try: an offer that stands is declined. False if that cannot be: then nobody waits any more. */
  #arm(): boolean {
    return this.#send('arm')
  }

  #send(how: 'arm' | 'want'): boolean {
    this.#armed = true
    if (this.#native[how](this.segment.handle, this.id)) return true
    this.#armed = false
    this.#rejectAll(noThread(this.id))
    return false
  }

  #standDown(): void {
    this.#armed = false
    this.#native.standDown(this.segment.handle, this.id)
  }
}
