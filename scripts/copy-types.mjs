// What tsc leaves to do about the declarations in dist/.
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'

const dist = new URL('../dist/', import.meta.url)

// It does not copy declarations that it was given: the binding's stand beside those that it made.
copyFileSync(new URL('../ts/binding.d.cts', import.meta.url), new URL('binding.d.cts', dist))

// A class with private fields is a type of its own, whatever its shape: nobody could write a double of a
// Manager, a Locker or a Guard for a test, and those of a second copy of the package would not fit. The
// public ones are interfaces for whoever imports them; the fields are as private without this line.
for (const name of ['manager', 'locker', 'guard', 'several']) {
  const file = new URL(`${name}.d.cts`, dist)
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll(/^ +#private;\n/gm, ''))
}
