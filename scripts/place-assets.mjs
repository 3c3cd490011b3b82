// Puts what tsc does not make beside the compiled code: llhttp's WebAssembly, the pages, the config's JSON Schema.
// usage: node scripts/place-assets.mjs FOLDER      (dist, or build/src for the tests)
//
// llhttp comes from undici's published build: npm's own `llhttp` (1.0.1, 2018) is a grammar without the fixes against
// request smuggling. Version and hash are pinned here, so that another build can't slip in with an update.
import { createHash } from 'node:crypto'
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const UNDICI = '7.30.2'
const SHA256 = '2434215e1f7fa0163f22ce895ddbeb83984fa0aa51e123164e053213e5aca028'

const folder = process.argv[2]
if (!folder) throw new Error('usage: node scripts/place-assets.mjs FOLDER')

const require = createRequire(import.meta.url)
const installed = JSON.parse(readFileSync(require.resolve('undici/package.json'), 'utf8')).version
if (installed !== UNDICI)
  throw new Error(`undici ${installed} is installed, llhttp is pinned to that of ${UNDICI}`)
const wasm = require('undici/lib/llhttp/llhttp_simd-wasm.js')
const found = createHash('sha256').update(wasm).digest('hex')
if (found !== SHA256) throw new Error(`llhttp's WebAssembly has the sha256 ${found}, expected ${SHA256}`)

mkdirSync(join(folder, 'head'), { recursive: true })
writeFileSync(join(folder, 'head', 'llhttp.wasm'), wasm)

mkdirSync(join(folder, 'cli'), { recursive: true })
copyFileSync('src/cli/demo.html', join(folder, 'cli', 'demo.html'))
cpSync('src/admin/page', join(folder, 'admin', 'page'), { recursive: true })

const { jsonSchema } = await import(pathToFileURL(join(folder, 'config', 'schema.js')).href)
writeFileSync(join(folder, 'headrace.schema.json'), `${JSON.stringify(jsonSchema(), null, 2)}\n`)
