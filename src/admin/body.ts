// The body of an admin request: JSON, or nothing.

import type { IncomingMessage } from 'node:http'
import type { Fault } from './route.ts'

const MAX_BODY_BYTES = 65_536

/** `value` is undefined without a body. */
export async function readBody(request: IncomingMessage): Promise<Fault | { readonly value: unknown }> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > MAX_BODY_BYTES) {
      // What still comes is not read: the connection can't be used again.
      return { status: 413, detail: `over ${MAX_BODY_BYTES} bytes`, fields: { Connection: 'close' } }
    }
    chunks.push(chunk)
  }
  if (size === 0) return { value: undefined }
  // A form of another page can be sent without asking, with any body that passes for JSON: but not as JSON.
  const [type = ''] = (request.headers['content-type'] ?? '').split(';')
  if (type.trim().toLowerCase() !== 'application/json') {
    return { status: 415, detail: 'a body must be JSON: Content-Type: application/json' }
  }
  try {
    return { value: JSON.parse(Buffer.concat(chunks).toString()) }
  } catch (error) {
    return { status: 400, detail: `body: not JSON: ${(error as Error).message}` }
  }
}
