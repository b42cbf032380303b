// Loaded into every Node of an s390x guest: under qemu the code of V8's optimising compiler crashes now and
// then, with or without this library.
require('node:v8').setFlagsFromString('--no-opt')
