// tsc does not copy declarations that it was given: the binding's stand beside those that it made.
import { copyFileSync } from 'node:fs'

copyFileSync(new URL('../ts/binding.d.cts', import.meta.url), new URL('../dist/binding.d.cts', import.meta.url))
