// Loaded into every Node of an s390x guest: there Node 20.11 failed a check of its deoptimiser once, and a
// process ended with SIGSEGV. A program without this library has not shown it in a minute; so it is a
// guess that the compiler or the emulation is to blame.
require('node:v8').setFlagsFromString('--no-opt')
