// The README says what exists: every key of the config, every error code, every command.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { readConfig } from '../src/config/load.ts'
import { jsonSchema } from '../src/config/schema.ts'
import { errorCodes } from '../src/index.ts'
import { readPage } from './support/page.ts'

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>
  readonly items?: Schema
  readonly anyOf?: readonly Schema[]
}

function keysOf(schema: Schema): string[] {
  const own = Object.entries(schema.properties ?? {}).flatMap(([key, inner]) => [key, ...keysOf(inner)])
  const inside = [schema.items, ...(schema.anyOf ?? [])].flatMap((one) =>
    one === undefined ? [] : keysOf(one),
  )
  return [...own, ...inside]
}

t.test('every key of the config is in the reference', (t) => {
  const keys = new Set(keysOf(jsonSchema() as Schema))
  t.ok(keys.size > 40, `${keys.size} keys`)
  for (const key of keys) t.match(readme, new RegExp(`[\`.{ ]${key}[\`.:\\[]`), key)
  t.end()
})

t.test('every error code is in the table', (t) => {
  for (const code of errorCodes) t.ok(readme.includes(`| \`${code}\` |`), code)
  t.end()
})

t.test('the config of the quick start is valid', (t) => {
  const { 'headrace.yaml': yaml = '' } = readPage('README.md').files
  const { listeners, edge } = readConfig(yaml, 'headrace.yaml', {})
  t.equal(listeners.length, 1)
  t.equal(edge.services[0]?.websockets, true)
  t.end()
})
