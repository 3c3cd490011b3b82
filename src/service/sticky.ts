// A client that stays with its backend, by a cookie of ours. It says which one by a digest of the name, which every worker,
// machine and release finds again: nothing has to be kept. Whoever sends another's chooses among the backends of the director,
// and no others.

import type { Client } from '../accept/client.ts'
import type { Backend } from '../dial/backend.ts'
import type { Director, Sticky, StickyOptions } from '../dial/director.ts'
import { markOf } from '../dial/director.ts'
import { cookieValues } from '../head/cookies.ts'
import type { RequestHead } from '../head/head.ts'
import { firstValue } from '../head/head.ts'

/** What a client has sent, before anybody has changed it. */
export interface Sent {
  readonly client: Client
  readonly head: RequestHead
}

/** The first of its backends that a cookie names. Browsers send the one of the longest path first (RFC 6265 section 5.4). */
export function keptBackend({ byMark }: Director, { cookie }: StickyOptions, { head }: Sent): Backend | null {
  for (const value of cookieValues(head.fields, cookie)) {
    const backend = byMark.get(value)
    if (backend !== undefined) return backend
  }
  return null
}

/** `kept`: whom the client's cookie names. It is sent again only if that isn't who was reached, or its time begins anew. */
export function stickyTo(options: StickyOptions, kept: Backend | null, sent: Sent): Sticky {
  return {
    cookie: options.cookie,
    setCookieFor(backend) {
      if (backend === kept && options.maxAgeMs === undefined) return null
      return setCookie(options, markOf(backend.options.name), isSecure(sent))
    },
  }
}

function setCookie(options: StickyOptions, value: string, isSecureClient: boolean): string {
  const { cookie, path, maxAgeMs, sameSite, partitioned, secure = isSecureClient } = options
  return [
    `${cookie}=${value}`,
    `Path=${path}`,
    ...(maxAgeMs === undefined ? [] : [`Max-Age=${maxAgeMs / 1_000}`]),
    'HttpOnly',
    // Browsers take neither without it.
    ...(secure || sameSite === 'None' || partitioned ? ['Secure'] : []),
    `SameSite=${sameSite}`,
    ...(partitioned ? ['Partitioned'] : []),
  ].join('; ')
}

/** A proxy that is trusted knows better; some say `wss` of a WebSocket. */
function isSecure({ client, head }: Sent): boolean {
  const said = client.mayForward ? firstValue(head.fields, 'x-forwarded-proto') : undefined
  return said === undefined ? client.tls !== null : /^(https|wss)\b/i.test(said)
}
