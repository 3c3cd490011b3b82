// What `npm start` runs: builds if there is no build or the sources are newer, then starts the demo in this process, so
// that signals reach it.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const program = join(root, 'dist/cli/headrace.js')

if (!existsSync(join(root, 'node_modules'))) {
  console.error('the packages are not installed: run npm ci first')
  process.exit(1)
}
// The build ends with the schema: a build that was interrupted has none, or an old one.
const built = join(root, 'dist/headrace.schema.json')
if (!existsSync(built) || newest('src') > statSync(built).mtimeMs) {
  console.error('building …')
  const { status, stdout, stderr } = spawnSync('npm', ['run', 'build'], { cwd: root, encoding: 'utf8' })
  if (status !== 0) {
    console.error(`${stdout}${stderr}`)
    process.exit(status ?? 1)
  }
}
process.argv.splice(1, 1, program, 'demo')
await import(pathToFileURL(program).href)

function newest(folder) {
  const files = readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
  return Math.max(
    ...files
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => statSync(join(parentPath, name)).mtimeMs),
  )
}
