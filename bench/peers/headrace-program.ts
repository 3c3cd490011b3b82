// Headrace as a program: primary, workers and control process, with its admin API.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { placed } from '../placement.ts'
import { PROGRAM } from '../places.ts'
import type { Peer, PeerOptions } from './peer.ts'

export interface HeadraceProgram extends Peer {
  /** host:port of the admin API. */
  readonly admin: string
}

const STOP_TIMEOUT_MS = 10_000

export async function startHeadraceProgram(
  { origin, cpus }: PeerOptions,
  workers: number,
): Promise<HeadraceProgram> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-headrace-'))
  const config = {
    listeners: [{ address: '127.0.0.1:0' }],
    services: [
      { id: 'bench', domains: ['*'], websockets: 'on', backends: [{ name: 'origin', address: origin }] },
    ],
    workers,
    stateDirectory: './state',
    admin: { address: '127.0.0.1:0' },
    drainTimeout: '1ms',
  }
  // YAML has JSON in it.
  writeFileSync(join(folder, 'headrace.yaml'), JSON.stringify(config))
  const words = [fileURLToPath(PROGRAM), 'run', '--config', 'headrace.yaml']
  const [command, args] = placed(cpus, process.execPath, words)
  const child = spawn(command, args, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
  const { address, admin } = await addressesOf(child)
  return {
    address,
    admin,
    pids: [child.pid ?? 0, ...childrenOf(child.pid ?? 0)],
    async settle() {},
    async stop() {
      if (child.exitCode === null && child.signalCode === null) {
        const exit = once(child, 'exit')
        const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
        child.kill('SIGTERM')
        await exit
        clearTimeout(timer)
      }
      rmSync(folder, { recursive: true })
    },
  }
}

/** Read to the end, so that it is never kept waiting by what it says. */
async function addressesOf({ stdout }: ChildProcess): Promise<{ address: string; admin: string }> {
  if (stdout === null) throw new TypeError('its output is not read')
  let address = ''
  return await new Promise((resolve, reject) => {
    const lines = createInterface({ input: stdout })
    lines.on('line', (line) => {
      const [, listens] = /^headrace listens on (\S+)$/.exec(line) ?? []
      address = listens ?? address
      const [, admin] = /"address":"([^"]+)","msg":"admin API listens"/.exec(line) ?? []
      if (admin !== undefined) resolve({ address, admin })
    })
    lines.on('close', () => reject(new Error('headrace has ended before it listened')))
  })
}

function childrenOf(pid: number): number[] {
  return (readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').match(/[0-9]+/g) ?? []).map(Number)
}
