// A part of a measurement that needs a process of its own: a file that is started as a program answers a line
// of JSON for each line that it is sent.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export class Child {
  constructor(url) {
    this.process = spawn(process.execPath, [fileURLToPath(url)], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.process.stdin.on('error', () => {})
    this.gone = new Promise((resolve) => this.process.once('exit', resolve))
    this.lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]()
  }

  /** Sends a request, and waits for the answer to it. */
  async ask(request) {
    this.process.stdin.write(`${JSON.stringify(request)}\n`)
    const { value, done } = await this.lines.next()
    if (done) throw new Error(`a process of ${this.process.spawnargs.at(-1)} has ended`)
    return JSON.parse(value)
  }

  async end() {
    this.process.kill('SIGKILL')
    await this.gone
  }
}

/** Runs `use` with a child, which is ended then. */
export async function withChild(url, use) {
  const child = new Child(url)
  try {
    return await use(child)
  } finally {
    await child.end()
  }
}

/** The other side: answers each request, if the file of that URL is the program that runs. */
export async function serve(url, answer) {
  if (process.argv[1] !== fileURLToPath(url)) return
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify((await answer(JSON.parse(line))) ?? {})}\n`)
  }
  process.exit()
}
