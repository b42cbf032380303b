// Measures one chapter, and sends what came out to the process that asked for it: see main.mjs.
import { once } from 'node:events'
import { Bench } from './bench.mjs'
import { chapters } from './chapters/index.mjs'

const [{ name, settings }] = await once(process, 'message')
const bench = new Bench(settings)
process.once('SIGINT', () => {
  bench.end()
  process.exit(130)
})
try {
  await chapters.find((chapter) => chapter.name === name).run(bench)
} finally {
  bench.end()
}
process.send(bench.result(), () => process.disconnect())
