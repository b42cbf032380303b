// What a user finds where the native package is not installed: in both kinds of module.
const required = require('robust-lock')

void import('robust-lock').then((imported) => {
  const outcomes = [required, imported].map(({ openManager, LockError, supported }) => {
    try {
      return { supported, opened: openManager({ name: 'missing' }).path }
    } catch (error) {
      return { supported, code: error.code, isOurs: error instanceof LockError, message: error.message }
    }
  })
  console.log(JSON.stringify(outcomes))
})
