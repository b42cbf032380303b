// The same once more, in Jest's second world.
require('./one.test.cjs')
