// The PROXY header that a load balancer in front sends: both versions.

import { parseProxyHeader } from '../../src/accept/proxy-protocol.ts'
import type { Micro } from './micro.ts'

const v1 = Buffer.from('PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nGET / HTTP/1.1\r\n', 'latin1')

/** Section 2.2: signature, version and command, family, length, then addresses and ports. */
const v2 = Buffer.concat([
  Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1'),
  Buffer.from([0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]),
  Buffer.from('GET / HTTP/1.1\r\n', 'latin1'),
])

export const proxyHeaders: readonly Micro[] = [micro('version 1', v1), micro('version 2', v2)]

function micro(name: string, bytes: Buffer): Micro {
  return {
    name: `PROXY header, ${name}`,
    run() {
      parseProxyHeader(bytes)
    },
  }
}
