// Where other people's code has failed: its file and line, for the log.

import { fileURLToPath } from 'node:url'

/** A frame of a stack, as V8 writes it: `at name (file:///edge.js:3:9)`, `at /edge.js:3:9`. */
const FRAME = /^\s+at (?:async )?(?:.* \()?((?:file:\/\/)?\/[^()?]*)(?:\?[^():]*)?:([0-9]+):([0-9]+)\)?$/

/** Of this package, as frames have it. */
const OWN = new URL('.', import.meta.url).href

/** What was thrown in words, with the place where it comes from if that is known: `boom (/srv/edge.js:3:9)`. */
export function told(thrown: unknown): string {
  const text = thrown instanceof Error ? thrown.message : String(thrown)
  const place = placeOf(thrown)
  return place === null ? text : `${text} (${place})`
}

/** The innermost frame that is neither node's nor ours. */
function placeOf(thrown: unknown): string | null {
  const stack = (thrown as { readonly stack?: unknown } | null | undefined)?.stack
  if (typeof stack !== 'string') return null
  for (const line of stack.split('\n')) {
    const [, file, row, column] = FRAME.exec(line) ?? []
    if (file === undefined || file.startsWith(OWN) || file.includes('/node_modules/')) continue
    return `${file.startsWith('file:') ? fileURLToPath(file) : file}:${row}:${column}`
  }
  return null
}
