// Runs the compiled tests: node scripts/test.mjs [FILES …]
// Makes the authority that the tests trust, runs tap, and ends with a line `N passed, N failed`, which counts assertions.
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { PassThrough } from 'node:stream'
import { t } from 'tap'

/** So many files at once; each, and each test in it, may take so many seconds. */
const JOBS = 3
const TIMEOUT = 240

const { createAuthority } = await import(resolve('build/test/support/certificates.js'))
const folder = resolve('build/test-authority')
const { certificate, key } = await createAuthority()
mkdirSync(folder, { recursive: true })
writeFileSync(join(folder, 'certificate.pem'), certificate)
writeFileSync(join(folder, 'key.pem'), key)

Object.assign(process.env, {
  TAP_TIMEOUT: `${TIMEOUT}`,
  // Of tap, for what its loader of coverage does otherwise (README of @tapjs/processinfo).
  _TAPJS_PROCESSINFO_COVERAGE_: '0',
  NODE_EXTRA_CA_CERTS: join(folder, 'certificate.pem'),
  HEADRACE_TEST_AUTHORITY: folder,
})

// Not by `tap run`, whose loaders for TypeScript and mocks are not needed here, and take longer than many a test.
const output = new PassThrough()
t.pipe(output)
t.jobs = JOBS
t.setTimeout(0)
const given = process.argv.slice(2)
for (const file of given.length > 0 ? given : all('build/test')) {
  void t.spawn(
    process.execPath,
    ['--enable-source-maps', file],
    { buffered: true, timeout: TIMEOUT * 1000 },
    file,
  )
}
void t.end()
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    t.endAll()
    process.exit(1)
  })
}

// TAP nests with four blanks a level. A file is a test of the top level; what failed is printed whole, the rest is counted.
let passed = 0
let failed = 0
let skipped = 0
let isShown = false
for await (const line of createInterface({ input: output })) {
  const [, indent = '', not, rest = ''] = /^( *)(not )?ok\b(.*)$/.exec(line) ?? []
  const isResult = /^ *(not )?ok\b/.test(line)
  if (isResult) {
    const isTest = / # time=/.test(rest)
    if (/ # SKIP/i.test(rest)) skipped += 1
    else if (!isTest && not) failed += 1
    else if (!isTest) passed += 1
    if (isTest && not && indent === '') failed += 1
    isShown = not !== undefined || / # SKIP/i.test(rest)
    if (indent === '' || isShown) console.log(line)
  } else if (isShown || /^ *Bail out!/.test(line)) {
    console.log(line)
  }
  if (/^ *\.\.\.$/.test(line)) isShown = false
}
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
process.exitCode = passed > 0 && failed === 0 && t.passing() ? 0 : 1

function all(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith('.test.js'))
    .map((name) => join(folder, name))
    .sort()
}
