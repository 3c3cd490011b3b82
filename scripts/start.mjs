// What `npm start` runs: builds if there is no build or the sources are newer, then starts the demo in this process.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

const program = 'dist/cli/headrace.js'

if (!existsSync('node_modules/typescript')) {
  console.error('the packages are not installed: run npm ci first')
  process.exit(1)
}
if (!existsSync(program) || newest('src') > statSync(program).mtimeMs) {
  console.error('building …')
  const { status, stdout, stderr } = spawnSync('npm', ['run', 'build'], { encoding: 'utf8' })
  if (status !== 0) {
    console.error(`${stdout}${stderr}`)
    process.exit(status ?? 1)
  }
}
process.argv.splice(1, 1, program)
process.argv.splice(2, 0, 'demo')
await import(`../${program}`)

function newest(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  )
  return Math.max(
    ...files.map(({ parentPath, path, name }) => statSync(join(parentPath ?? path, name)).mtimeMs),
  )
}
