/**
 * What the native module of the running Node is called: linux-x64-gnu and so on. By Node's own report, and not as the
 * library's loader finds it, which is tried against this.
 */
export function ownPlatform() {
  process.report.excludeNetwork = true
  const { glibcVersionRuntime } = process.report.getReport().header
  return `linux-${process.arch}-${glibcVersionRuntime === undefined ? 'musl' : process.arch === 'arm' ? 'gnueabihf' : 'gnu'}`
}
