// Proxies that are programs of the system: a config is made from a template, and the program started with it.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { TUNNELS_PER_PROXY } from '../limits.ts'
import { placed } from '../placement.ts'
import { TEMPLATES } from '../places.ts'
import type { PeerKind } from './peer.ts'

export interface Program {
  readonly name: string
  readonly template: string
  /** Prints the version. */
  readonly versionFlag: string
  /** What the template gets to accept TLS; `pem`: a file with the certificate and its key. */
  tls(pem: string): { readonly listen: string; readonly lines: string }
  flags(config: string): readonly string[]
}

/** Debian has them where ordinary users don't look. */
export const ENVIRONMENT = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
/** Of nginx, which counts listeners among them. */
const SPARE_CONNECTIONS = 100
const START_TIMEOUT_MS = 5_000
const START_POLL_MS = 20

export function programPeer(program: Program): PeerKind {
  const { name, template, versionFlag } = program
  return {
    name,
    isProxy: true,
    missing: () => (versionOf(name, versionFlag) === null ? 'not installed' : null),
    version: () => versionOf(name, versionFlag) ?? '',
    async start({ origin, tls, cpus }) {
      const folder = mkdtempSync(join(tmpdir(), `bench-${name}-`))
      const pem = join(folder, 'certificate.pem')
      if (tls !== null) writeFileSync(pem, `${tls.certificate}\n${tls.key}\n`)
      const address = `127.0.0.1:${await freePort()}`
      const secure = tls === null ? { listen: '', lines: '' } : program.tls(pem)
      const config = join(folder, template)
      const text = readFileSync(new URL(template, TEMPLATES), 'utf8')
      const values: Readonly<Record<string, string>> = {
        LISTEN: `${address} ${secure.listen}`,
        TLS: secure.lines,
        ORIGIN: origin,
        FOLDER: folder,
        TUNNELS: String(TUNNELS_PER_PROXY),
        CONNECTIONS: String(TUNNELS_PER_PROXY * 2 + SPARE_CONNECTIONS),
      }
      writeFileSync(
        config,
        text.replace(/\{\{(\w+)\}\}/g, (_, word: string) => values[word] ?? ''),
      )
      const [command, args] = placed(cpus, name, program.flags(config))
      const child = spawn(command, args, { env: ENVIRONMENT, stdio: ['ignore', 'ignore', 'inherit'] })
      await once(child, 'spawn')
      await accepting(address)
      return {
        address,
        pids: [child.pid ?? 0],
        async settle() {},
        async stop() {
          if (child.exitCode === null && child.signalCode === null) {
            child.kill('SIGKILL')
            await once(child, 'exit')
          }
          rmSync(folder, { recursive: true })
        },
      }
    },
  }
}

function versionOf(name: string, flag: string): string | null {
  const { error, stdout, stderr } = spawnSync(name, [flag], { env: ENVIRONMENT, encoding: 'utf8' })
  if (error !== undefined) return null
  return /(\d+\.\d+\.\d+)/.exec(stdout + stderr)?.[1] ?? 'unknown'
}

/** These programs can't say which port the system chose. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Resolves when somebody accepts there; rejects if nobody does in time. */
export async function accepting(address: string): Promise<void> {
  const [host = '', port] = address.split(':')
  const until = performance.now() + START_TIMEOUT_MS
  for (;;) {
    const socket = connect(Number(port), host)
    const isUp = await once(socket, 'connect').then(
      () => true,
      () => false,
    )
    socket.destroy()
    if (isUp) return
    if (performance.now() > until) throw new Error(`nothing accepts on ${address}`)
    await sleep(START_POLL_MS)
  }
}
