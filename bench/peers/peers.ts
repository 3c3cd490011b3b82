// Who takes part. A new proxy is one more line here.

import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { PACKAGE, PRODUCT } from '../places.ts'
import { HEADRACE_ENGINE } from './engine.ts'
import { nodePeer } from './node-peer.ts'
import type { PeerKind } from './peer.ts'
import { programPeer } from './program.ts'

const headrace = nodePeer(
  {
    name: 'headrace',
    missing: () => (existsSync(PRODUCT) ? null : 'not built: npm run build'),
    version: () => `${versionIn(PACKAGE)} (engine ${HEADRACE_ENGINE})`,
  },
  new URL('./headrace.js', import.meta.url),
)

const httpProxy3 = nodePeer(
  {
    name: 'http-proxy-3',
    missing: () => null,
    version: () => versionIn(createRequire(import.meta.url).resolve('http-proxy-3/package.json')),
  },
  new URL('./http-proxy-3.js', import.meta.url),
)

const haproxy = programPeer({
  name: 'haproxy',
  template: 'haproxy.cfg',
  versionFlag: '-v',
  tls: (pem) => ({ listen: `ssl crt ${pem} alpn http/1.1`, lines: '' }),
  flags: (config) => ['-db', '-q', '-f', config],
})

const nginx = programPeer({
  name: 'nginx',
  template: 'nginx.conf',
  versionFlag: '-v',
  tls: (pem) => ({ listen: 'ssl', lines: `ssl_certificate ${pem}; ssl_certificate_key ${pem};` }),
  flags: (config) => ['-c', config],
})

/** No proxy at all, client and origin back to back: what the load itself can do. */
const direct: PeerKind = {
  name: 'direct',
  missing: () => null,
  version: () => '',
  async start({ origin }) {
    return { address: origin, pids: [], async settle() {}, async stop() {} }
  },
}

export const peerKinds: readonly PeerKind[] = [headrace, httpProxy3, haproxy, nginx, direct]

function versionIn(packageFile: string): string {
  return (JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string }).version
}
