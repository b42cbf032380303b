// A worker of the bank: moves money between random accounts until it is killed.
import { openManager } from 'robust-lock'
import { Bank, Ledger, slowly } from './ledger.cjs'

const [file, segment, place, how] = process.argv.slice(2) as [string, string, string, string]
const ledger = new Ledger(file)

function two(): [number, number] {
  const from = Math.floor(Math.random() * ledger.accounts)
  const to = (from + 1 + Math.floor(Math.random() * (ledger.accounts - 1))) % ledger.accounts
  return [from, to]
}

function amount(): number {
  return 1 + Math.floor(Math.random() * 50)
}

/** The same, as if nobody else were there, and nobody were ever killed. */
function moveWithoutLocks(): void {
  const [from, to] = two()
  const sum = amount()
  const [a, b] = [ledger.balance(from), ledger.balance(to)]
  if (a < sum) return
  ledger.setBalance(from, a - sum)
  slowly()
  ledger.setBalance(to, b + sum)
  ledger.count(Number(place), 'transfers')
}

async function main(): Promise<void> {
  // The bank is gone: nobody wants us any more.
  process.once('disconnect', () => process.exit(0))
  const bank =
    how === 'none'
      ? undefined
      : new Bank(ledger, openManager({ path: segment, mode: 'open' }), Number(place), (locker) =>
          how === 'sync' ? locker.lockSync() : locker.lock(),
        )
  process.send?.('open for business')
  for (let round = 1; ; round++) {
    if (bank === undefined) moveWithoutLocks()
    else await bank.transfer(...two(), amount())
    // Now and then, so that a message can come in.
    if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
}

void main()
