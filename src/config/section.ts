// The sections of a config: keys that are known, and fields of which only the form is.

import { z } from 'zod'
import { fieldValue, wrong } from './values.ts'

/** An object without other keys. The message about unknown keys is the list of the known ones: see issues.ts. */
export function section<Shape extends z.ZodRawShape>(shape: Shape) {
  const known = Object.keys(shape).join(', ')
  const { error } = wrong('section', `write keys and values: ${known}`)
  return z.strictObject(shape, {
    error: (issue) => (issue.code === 'unrecognized_keys' ? known : error(issue)),
  })
}

export function fields<Name extends z.ZodType<string, string>>(name: Name) {
  return z.record(name, fieldValue, wrong('section', 'write { Name: "value" }'))
}
