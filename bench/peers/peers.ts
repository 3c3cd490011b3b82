// Who takes part. A new proxy is one more line here.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { PACKAGE, PRODUCT } from '../places.ts'
import { nodePeer } from './node-peer.ts'
import type { PeerKind } from './peer.ts'
import { programPeer } from './program.ts'

/** Headrace with the engine that it chooses, which stands beside its version. */
const headrace = headraceWith('headrace', 'auto', () =>
  reasonAgainst('epoll') === null ? 'epoll' : 'stream',
)

function headraceWith(name: string, engine: string, chosen = () => engine): PeerKind {
  return nodePeer(
    {
      name,
      isProxy: true,
      missing: () => reasonAgainst(engine),
      version: () => `${versionIn(PACKAGE)}, engine ${chosen()}`,
    },
    new URL('./headrace.js', import.meta.url),
    { engine },
  )
}

/** Asked in a process of its own, since an engine stays with the process that has started it. */
function reasonAgainst(engine: string): string | null {
  if (!existsSync(PRODUCT)) return 'not built: npm run build'
  const services = [{ id: 'x', domains: ['*'], backends: [{ name: 'x', address: '127.0.0.1:1' }] }]
  const options = JSON.stringify({ services, engine, log: { level: 'silent' } })
  const script = `import('${PRODUCT.href}').then(({ createTunnel }) => createTunnel(${options})).catch((error) => {
    console.error(error.message)
    process.exit(1)
  })`
  const { status, stderr } = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' })
  return status === 0 ? null : stderr.trim()
}

const httpProxy3 = nodePeer(
  {
    name: 'http-proxy-3',
    isProxy: true,
    missing: () => null,
    version: () => versionIn(createRequire(import.meta.url).resolve('http-proxy-3/package.json')),
    hopelessAbove: {
      most: 20_000,
      why: 'it opens some 2,000 a second, and a whole run has half an hour',
    },
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
  isProxy: false,
  missing: () => null,
  version: () => '',
  async start({ origin }) {
    return { address: origin, pids: [], async settle() {}, async stop() {} }
  },
}

/** Whoever takes part if nobody is named. */
export const usualKinds: readonly PeerKind[] = [headrace, haproxy, nginx, httpProxy3, direct]

/** Engines that `auto` does not choose; for those who work on them. */
export const peerKinds: readonly PeerKind[] = [
  ...usualKinds,
  headraceWith('headrace-stream', 'stream'),
  headraceWith('headrace-sockmap', 'sockmap'),
]

function versionIn(packageFile: string): string {
  return (JSON.parse(readFileSync(packageFile, 'utf8')) as { version: string }).version
}
