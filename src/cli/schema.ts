// `headrace schema`: the JSON Schema of the config, for editors.

import { jsonSchema } from '../config/schema.ts'

export function printSchema(): number {
  process.stdout.write(`${JSON.stringify(jsonSchema(), null, 2)}\n`)
  return 0
}
