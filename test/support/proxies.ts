// The proxies that people come from, as Debian has them, with the config of a page, and Headrace with the one beside it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { accepting, ENVIRONMENT, freePort } from '../../bench/peers/program.ts'
import { selfSigned } from './certificates.ts'
import type { Fleet } from './control.ts'
import { newFolder, startFleet } from './control.ts'
import { adapted } from './page.ts'

/** The name of the site on these pages. */
export const HOST = 'chat.example.com'

/** What is in the place of what a page says. */
export type Changes = Readonly<Record<string, string>>

export interface Front {
  /** host:port */
  readonly address: string
  /** The same, with TLS. */
  readonly secure: string
  /** Where a PROXY header comes first. */
  readonly behind: string
  /** What Prometheus asks. */
  readonly metrics: string
}

const PORTS = {
  address: '127.0.0.1:8080',
  secure: '127.0.0.1:8443',
  behind: '127.0.0.1:8081',
  metrics: '127.0.0.1:8404',
}

/** Those of these ports that a config has, in the places that they have here. */
function portsIn(config: string, front: Front): Changes {
  const names = Object.keys(PORTS) as (keyof Front)[]
  return Object.fromEntries(
    names.filter((name) => config.includes(PORTS[name])).map((name) => [PORTS[name], front[name]]),
  )
}

const certificate = selfSigned({ names: [HOST] })

/** nginx has two files for it, HAProxy one, and the pages of both call it so. */
async function certificateFolder(t: Test): Promise<string> {
  const pem = await certificate
  return newFolder(t, { 'example.com.pem': `${pem.certificate}\n${pem.key}`, 'example.com.key': pem.key })
}

export async function startOurs(
  t: Test,
  config: string,
  changes: Changes,
): Promise<Front & { readonly fleet: Fleet }> {
  const any = '127.0.0.1:0'
  const ports = portsIn(config, { address: any, secure: any, behind: any, metrics: any })
  const folder = await certificateFolder(t)
  const fleet = await startFleet(t, adapted(config, { ...ports, ...changes }), { folder })
  const [address = '', secure = '', behind = ''] = fleet.addresses
  const [admin] = config.includes('admin:') ? await fleet.says('admin API listens') : []
  return { fleet, address, secure, behind, metrics: String(admin?.address ?? '') }
}

/** `sites`: what people have in /etc/nginx/conf.d. */
export async function startNginx(t: Test, sites: string, changes: Changes): Promise<Front> {
  const front = await newFront()
  const folder = await certificateFolder(t)
  // What Debian's own nginx.conf is for: where it keeps what, and the inclusion of the sites.
  const kept = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (kind) => `${kind}_temp_path ${folder}/${kind};`,
  )
  const main = `daemon off;
pid ${folder}/nginx.pid;
events {}
http {
  access_log off;
  ${kept.join(' ')}
  include sites.conf;
}
`
  writeFileSync(join(folder, 'nginx.conf'), main)
  writeFileSync(join(folder, 'sites.conf'), adapted(sites, { ...portsIn(sites, front), ...changes }))
  await start(t, 'nginx', ['-e', 'stderr', '-c', join(folder, 'nginx.conf')], front.address)
  return front
}

export async function startHaproxy(t: Test, config: string, changes: Changes): Promise<Front> {
  const front = await newFront()
  const folder = await certificateFolder(t)
  const places = {
    ...portsIn(config, front),
    '/run/haproxy/admin.sock': join(folder, 'admin.sock'),
    // It reserves two descriptors for each, and does not start if the machine has fewer.
    'maxconn 20000': 'maxconn 500',
  }
  writeFileSync(join(folder, 'haproxy.cfg'), adapted(config, { ...places, ...changes }))
  await start(t, 'haproxy', ['-db', '-C', folder, '-f', 'haproxy.cfg'], front.address)
  return front
}

/** They can't say which port the system chose. */
async function newFront(): Promise<Front> {
  const free = async () => `127.0.0.1:${await freePort()}`
  return { address: await free(), secure: await free(), behind: await free(), metrics: await free() }
}

/** Resolves when it accepts. */
async function start(t: Test, name: string, words: readonly string[], address: string): Promise<void> {
  const child = spawn(name, words, { env: ENVIRONMENT, stdio: ['ignore', 'ignore', 'pipe'] })
  let complaints = ''
  child.stderr.on('data', (chunk: Buffer) => {
    complaints += chunk
  })
  const ended = once(child, 'close')
  t.teardown(async () => {
    child.kill('SIGTERM')
    await ended
  })
  const failed = ended.then(() => {
    throw new Error(`${name} has ended: ${complaints}`)
  })
  failed.catch(() => {})
  await Promise.race([accepting(address), failed])
}
