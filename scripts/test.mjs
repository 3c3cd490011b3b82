// Runs the compiled tests: node scripts/test.mjs [FILES …]
// Makes the authority that the tests trust, runs tap, and ends with a line `N passed, N failed`, which counts assertions.
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'

const { createAuthority } = await import(resolve('build/test/support/certificates.js'))
const folder = resolve('build/test-authority')
const { certificate, key } = await createAuthority()
mkdirSync(folder, { recursive: true })
writeFileSync(join(folder, 'certificate.pem'), certificate)
writeFileSync(join(folder, 'key.pem'), key)

const tap = spawn('node_modules/.bin/tap', ['run', '--reporter=tap', ...process.argv.slice(2)], {
  env: {
    ...process.env,
    NODE_EXTRA_CA_CERTS: join(folder, 'certificate.pem'),
    HEADRACE_TEST_AUTHORITY: folder,
  },
  stdio: ['inherit', 'pipe', 'inherit'],
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => tap.kill(signal))

// TAP nests with four blanks a level. A file is a test of the top level; what failed is printed whole, the rest is counted.
let passed = 0
let failed = 0
let skipped = 0
let isShown = false
for await (const line of createInterface({ input: tap.stdout })) {
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
const code = await new Promise((done) => (tap.exitCode === null ? tap.on('close', done) : done(tap.exitCode)))
console.log(
  `${passed} passed, ${failed === 0 && code !== 0 ? 1 : failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`,
)
process.exit(code ?? 1)
