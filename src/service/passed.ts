// How a request is passed on to the process where its session lives: with one field more, which says for which service and
// session it is, and who the client is. Only on the private sockets of the workers is that field looked at.

import type { Client } from '../accept/client.ts'
import { HeadraceError } from '../errors.ts'
import type { RequestHead } from '../head/head.ts'
import { field, valuesOf } from '../head/head.ts'

export interface Passed {
  /** The id. */
  readonly service: string
  readonly session: string
  /** It is for the object of this name itself, and nothing is to be decided any more. */
  readonly isForObject: boolean
  readonly client: Omit<Client, 'transport'>
}

const NAME = 'Headrace-Passed'
const KEY = NAME.toLowerCase()

export function passedHead(head: RequestHead, passed: Passed): RequestHead {
  const value = Buffer.from(JSON.stringify(passed)).toString('base64url')
  return { ...withoutPassed(head), fields: [...withoutPassed(head).fields, field(NAME, value)] }
}

/** The opposite. Throws head-malformed. */
export function readPassed(head: RequestHead): { readonly passed: Passed; readonly head: RequestHead } {
  const [value = '', ...more] = valuesOf(head.fields, KEY)
  try {
    if (more.length > 0) throw new Error('several')
    const passed = JSON.parse(Buffer.from(value, 'base64url').toString()) as Passed
    return { passed, head: withoutPassed(head) }
  } catch (error) {
    throw new HeadraceError('head-malformed', `${NAME} is not what a worker writes`, error)
  }
}

function withoutPassed(head: RequestHead): RequestHead {
  return { ...head, fields: head.fields.filter(({ key }) => key !== KEY) }
}

/** What of a client is passed on. */
export function factsOf({ address, port, tls, mayForward, listener }: Client): Passed['client'] {
  return { address, port, tls, mayForward, listener }
}
