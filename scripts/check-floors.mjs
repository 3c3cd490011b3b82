// Holds the imports of src against the floors of src/README.md: down only, never sideways, never up, no cycles in a room;
// and keeps what is dangerous in the rooms that own it.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'

const floors = {
  errors: 0,
  durable: 0,
  end: 0,
  linux: 0,
  'operator-errors': 0,
  pattern: 0,
  prepared: 0,
  signal: 0,
  stack: 0,
  transport: 0,
  accept: 1,
  head: 1,
  dial: 1,
  engine: 1,
  local: 1,
  gate: 2,
  handoff: 2,
  health: 2,
  tunnel: 2,
  plain: 2,
  service: 3,
  observe: 3,
  usage: 3,
  program: 3,
  establish: 4,
  connection: 5,
  handover: 5,
  listeners: 5,
  operations: 5,
  passing: 5,
  edge: 6,
  config: 7,
  admin: 7,
  'http-proxy': 8,
  index: 8,
  process: 8,
  cli: 9,
}

/** What only some rooms may contain, and why. */
const owned = [
  {
    pattern: /from '(node:)?(net|tls)'/,
    valueOnly: true,
    rooms: ['accept', 'dial', 'transport'],
    files: ['linux/sockaddr.ts'],
    why: 'only accept and dial open sockets, and a transport makes one of its descriptor',
  },
  {
    pattern: /^import (?!\{ STATUS_CODES \}).* from '(node:)?http'/,
    valueOnly: true,
    rooms: ['plain', 'admin', 'cli', 'http-proxy'],
    why: "node's HTTP is for the plain branch, the admin API, and the server that http-proxy's listen opens",
  },
  { pattern: /from 'pino'/, valueOnly: false, rooms: ['observe'], why: 'only observe writes lines' },
  {
    pattern: /'(ioredis|rate-limiter-flexible)'/,
    valueOnly: false,
    rooms: ['gate'],
    why: 'only the gate counts rates',
  },
  {
    pattern: /'(prom-client|@opentelemetry\/api)'/,
    valueOnly: false,
    rooms: ['observe'],
    why: 'only observe makes metrics and spans',
  },
  {
    pattern: /llhttp\.wasm|WebAssembly/,
    valueOnly: false,
    rooms: ['head'],
    why: 'only head/llhttp.ts knows the parser',
  },
  {
    pattern: /process\.(env|exit|on\b|once\b|argv)/,
    valueOnly: false,
    rooms: ['process', 'cli'],
    // The relay's thread must be woken before the process can exit, and nothing polled any more.
    files: ['engine/linux/kernel.ts', 'linux/loop.ts'],
    why: 'signals, exit codes and the environment belong to the program',
  },
  {
    pattern: /console\./,
    valueOnly: false,
    rooms: [],
    why: 'observe and the command line write, each in its own way',
  },
  {
    pattern: /\b_handle\b/,
    valueOnly: false,
    rooms: [],
    files: ['transport/node.ts'],
    why: "node's handles are not ours, but for the one place that takes a descriptor out",
  },
  {
    pattern: /from 'ws'/,
    valueOnly: true,
    rooms: ['local', 'cli'],
    why: 'only local looks into frames',
  },
  {
    pattern: /'koffi'/,
    valueOnly: false,
    rooms: [],
    files: ['linux/libc.ts'],
    why: 'system calls have one table',
  },
]

const files = readdirSync('src', { recursive: true })
  .filter((name) => name.endsWith('.ts'))
  .sort()
const roomOf = (file) => file.split('/')[0].replace(/\.ts$/, '')
const complaints = []
const graph = new Map()
/** The same without what is gone when it runs. */
const running = new Map()

for (const file of files) {
  const text = readFileSync(join('src', file), 'utf8')
  const room = roomOf(file)
  if (floors[room] === undefined) complaints.push(`${file}: the room ${room} has no floor`)
  const imports = [...text.matchAll(/^(?:import|export)\s[^;'"]*?from\s+'(\.[^']+)'/gms)].map((match) => ({
    target: relative('.', normalize(join(dirname(file), match[1]))),
    typeOnly: /^(import|export) type/.test(match[0]),
  }))
  graph.set(
    file,
    imports.map(({ target }) => target),
  )
  running.set(
    file,
    imports.filter(({ typeOnly }) => !typeOnly).map(({ target }) => target),
  )
  for (const { target, typeOnly } of imports) {
    const other = roomOf(target)
    if (other === room || (floors[other] === 0 && floors[room] === 0)) continue
    const isDown = floors[other] < floors[room]
    if (!isDown && !(room === 'config' && typeOnly))
      complaints.push(`${file} (floor ${floors[room]}) imports ${target} (floor ${floors[other]})`)
  }
  for (const { pattern, valueOnly, rooms, files: allowed = [], why } of owned) {
    for (const [index, line] of text.split('\n').entries()) {
      const isComment = /^\s*(\/\/|\*|\/\*)/.test(line)
      if (
        isComment ||
        (valueOnly && /^import type/.test(line)) ||
        rooms.includes(room) ||
        allowed.includes(file)
      )
        continue
      if (pattern.test(line)) complaints.push(`src/${file}:${index + 1}: ${why}: ${line.trim()}`)
    }
  }
  const lines = text.split('\n').length
  if (lines > 400) complaints.push(`${file} has ${lines} lines: which second purpose came in?`)
}

const done = new Set()
function visit(file, path) {
  if (path.includes(file))
    return complaints.push(`a cycle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`)
  if (done.has(file)) return
  for (const target of graph.get(file) ?? []) visit(target, [...path, file])
  done.add(file)
}
for (const file of files) visit(file, [])

/** The primary may be root: nothing that reads what strangers send is even loaded there. */
const KEPT_OUT = /^(connection|establish|edge)\.ts$|^head\/(llhttp|read)\.ts$|^plain\/|^admin\/server\.ts$/
const PRIMARY = 'process/primary.ts'
const reached = new Map([[PRIMARY, PRIMARY]])
for (const [file, path] of reached) {
  if (KEPT_OUT.test(file)) complaints.push(`the primary must not load ${file}: ${path}`)
  for (const target of running.get(file) ?? []) {
    if (!reached.has(target)) reached.set(target, `${path} → ${target}`)
  }
}

for (const complaint of complaints) console.error(complaint)
if (complaints.length > 0) process.exit(1)
console.log(`floors: ${files.length} files, imports go down only`)
