// The bank's file, and how money moves in it so that a kill at any instant loses none.
//
// A transfer takes the locks of both accounts in id order, writes a journal entry into the record of the
// first (both old balances), writes one balance, writes the other, and clears the entry. Whoever is told
// `ownerDied` for an account repairs before it does anything else:
//
// - An entry names the account, its own or that of an account with a lower lock: a transfer was
//   interrupted. Take both its locks, in order, write both old balances, clear the entry, and declare
//   both repaired.
// - No entry names it: its holder died before the first write or after the last one. Nothing to repair.
//
// Why that is safe. Only the holders of an account's lock write its balance, and an entry that names an
// account is written and cleared only by a holder of its lock; so under the lock the search is exact. An
// account whose holder died is dirty until it is repaired, and nobody begins a transfer with it before:
// so at most one entry names it. The repair can be repeated, so it may be killed as well. The lock that
// was got out of order is released unrepaired: it stays dirty.
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import type { Guard, Locker, Manager } from 'robust-lock'

const HEADER_BYTES = 64
const ACCOUNT_BYTES = 128
const JOURNAL_AT = 64
const JOURNAL_BYTES = 40
const STATISTICS_BYTES = 64

export interface Statistics {
  transfers: number
  deaths: number
  repairs: number
}

interface Entry {
  first: number
  second: number
  firstBalance: number
  secondBalance: number
}

/** Fletcher's sum over an entry: one that was torn in the middle is none. */
function checksum(bytes: Buffer): number {
  let [a, b] = [1, 0]
  for (let i = 0; i < JOURNAL_BYTES - 8; i++) {
    a = (a + (bytes[i] ?? 0)) % 65_521
    b = (b + a) % 65_521
  }
  return b * 65_536 + a
}

export class Ledger {
  readonly accounts: number
  readonly #fd: number
  readonly #number = Buffer.alloc(8)

  /** Makes a new file: every account has `balance`, and a lock id each. */
  static create(path: string, lockIds: number[], balance: number, tellers: number): void {
    const bytes = Buffer.alloc(HEADER_BYTES + lockIds.length * ACCOUNT_BYTES + tellers * STATISTICS_BYTES)
    bytes.writeDoubleLE(lockIds.length, 0)
    lockIds.forEach((id, account) => {
      bytes.writeDoubleLE(balance, HEADER_BYTES + account * ACCOUNT_BYTES)
      bytes.writeDoubleLE(id, HEADER_BYTES + account * ACCOUNT_BYTES + 8)
    })
    const fd = openSync(path, 'wx', 0o600)
    writeSync(fd, bytes)
    closeSync(fd)
  }

  constructor(path: string) {
    this.#fd = openSync(path, 'r+')
    this.accounts = this.#read(0)
  }

  #read(at: number): number {
    readSync(this.#fd, this.#number, 0, 8, at)
    return this.#number.readDoubleLE(0)
  }

  #write(at: number, value: number): void {
    this.#number.writeDoubleLE(value, 0)
    writeSync(this.#fd, this.#number, 0, 8, at)
  }

  #at(account: number): number {
    return HEADER_BYTES + account * ACCOUNT_BYTES
  }

  balance(account: number): number {
    return this.#read(this.#at(account))
  }

  setBalance(account: number, balance: number): void {
    this.#write(this.#at(account), balance)
  }

  lockId(account: number): number {
    return this.#read(this.#at(account) + 8)
  }

  total(): number {
    let sum = 0
    for (let account = 0; account < this.accounts; account++) sum += this.balance(account)
    return sum
  }

  /** The entry in this account's record, if there is a whole one. */
  entry(account: number): Entry | undefined {
    const bytes = Buffer.alloc(JOURNAL_BYTES)
    readSync(this.#fd, bytes, 0, JOURNAL_BYTES, this.#at(account) + JOURNAL_AT)
    if (bytes.readDoubleLE(32) !== checksum(bytes)) return undefined
    const [first = 0, second = 0, firstBalance = 0, secondBalance = 0] = [0, 8, 16, 24].map((at) => bytes.readDoubleLE(at))
    return { first, second, firstBalance, secondBalance }
  }

  writeEntry({ first, second, firstBalance, secondBalance }: Entry): void {
    const bytes = Buffer.alloc(JOURNAL_BYTES)
    ;[first, second, firstBalance, secondBalance].forEach((value, i) => bytes.writeDoubleLE(value, i * 8))
    bytes.writeDoubleLE(checksum(bytes), 32)
    writeSync(this.#fd, bytes, 0, JOURNAL_BYTES, this.#at(first) + JOURNAL_AT)
  }

  clearEntry(account: number): void {
    writeSync(this.#fd, Buffer.alloc(JOURNAL_BYTES), 0, JOURNAL_BYTES, this.#at(account) + JOURNAL_AT)
  }

  /** The interrupted transfer of this account; exact for whoever has its lock. */
  entryThatNames(account: number): Entry | undefined {
    for (let first = 0; first < this.accounts; first++) {
      const entry = this.entry(first)
      if (entry?.first === account || entry?.second === account) return entry
    }
    return undefined
  }

  statistics(teller: number): Statistics {
    const at = this.#at(this.accounts) + teller * STATISTICS_BYTES
    return { transfers: this.#read(at), deaths: this.#read(at + 8), repairs: this.#read(at + 16) }
  }

  /** Each teller has a place of its own; what a killed one has written stays. */
  count(teller: number, what: keyof Statistics): void {
    const at = this.#at(this.accounts) + teller * STATISTICS_BYTES + { transfers: 0, deaths: 8, repairs: 16 }[what]
    this.#write(at, this.#read(at) + 1)
  }
}

/** Between the two writes of a transfer lies what a slow disk takes: so kills fall there, too. */
export function slowly(): void {
  const end = performance.now() + 0.05
  while (performance.now() < end);
}

/** How a teller takes a lock. */
export type Take = (locker: Locker) => Guard | Promise<Guard>

/** Moves money, and repairs what others have left half done. */
export class Bank {
  readonly #lockers: Locker[]

  constructor(
    readonly ledger: Ledger,
    manager: Manager,
    readonly teller: number,
    readonly take: Take,
  ) {
    this.#lockers = Array.from({ length: ledger.accounts }, (_, account) => manager.retrieveLock(ledger.lockId(account)))
  }

  #locker(account: number): Locker {
    return this.#lockers[account] as Locker
  }

  /** Two accounts in the order of their locks. */
  #inOrder(a: number, b: number): [number, number] {
    return this.#locker(a).id < this.#locker(b).id ? [a, b] : [b, a]
  }

  /** Moves `amount`, if it is there. */
  async transfer(from: number, to: number, amount: number): Promise<void> {
    const [first, second] = this.#inOrder(from, to)
    for (;;) {
      const one = await this.take(this.#locker(first))
      const two = one.ownerDied ? undefined : await this.take(this.#locker(second))
      if (two !== undefined && !two.ownerDied) {
        this.#move(first, second, from === first ? -amount : amount)
        two.unlock()
        one.unlock()
        return
      }
      // Released as they are: who died stays told until it is repaired.
      two?.unlock()
      one.unlock()
      this.ledger.count(this.teller, 'deaths')
      await this.repair(two === undefined ? first : second)
    }
  }

  /** The critical section. */
  #move(first: number, second: number, change: number): void {
    const { ledger } = this
    const [firstBalance, secondBalance] = [ledger.balance(first), ledger.balance(second)]
    if (firstBalance + change < 0 || secondBalance - change < 0) return
    ledger.writeEntry({ first, second, firstBalance, secondBalance })
    ledger.setBalance(first, firstBalance + change)
    slowly()
    ledger.setBalance(second, secondBalance - change)
    ledger.clearEntry(first)
    ledger.count(this.teller, 'transfers')
  }

  /** Called with no lock held. Afterwards the account has been whole for an instant. */
  async repair(account: number): Promise<void> {
    const { ledger } = this
    for (;;) {
      const interrupted = ledger.entryThatNames(account)
      if (interrupted === undefined) {
        const guard = await this.take(this.#locker(account))
        const found = guard.ownerDied ? ledger.entryThatNames(account) : undefined
        if (found === undefined) guard.markConsistent()
        guard.unlock()
        if (found === undefined) return
        continue
      }
      const one = await this.take(this.#locker(interrupted.first))
      const two = await this.take(this.#locker(interrupted.second))
      // Under both locks: is it there still, and was it no living transfer that we have seen?
      const entry = one.ownerDied ? ledger.entry(interrupted.first) : undefined
      const ours = entry?.second === interrupted.second
      if (entry !== undefined && ours) {
        ledger.setBalance(entry.first, entry.firstBalance)
        ledger.setBalance(entry.second, entry.secondBalance)
        ledger.clearEntry(entry.first)
        ledger.count(this.teller, 'repairs')
        one.markConsistent()
        two.markConsistent()
      }
      two.unlock()
      one.unlock()
      if (ours) return
    }
  }
}
