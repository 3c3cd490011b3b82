// `headrace usage`: what a month cost, read from the state directory, whether the program runs or not.

import { existsSync } from 'node:fs'
import { suggestion } from '../config/problems.ts'
import type { ServiceUsage, UsageReport } from '../usage/report.ts'
import { readUsage } from '../usage/usage.ts'
import { load } from './config.ts'

export interface Wanted {
  readonly month: string
  readonly service: string | undefined
  readonly form: 'table' | 'json' | 'csv'
}

const FORMS = { table: tableOf, json: jsonOf, csv: csvOf }

export async function usage(file: string, { month, service, form }: Wanted): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const { edge } = config
  // The config of a file always has one.
  const { stateDirectory = 'state' } = edge
  const report = await readUsage(stateDirectory, month, service)
  const known = edge.services.map(({ id }) => id)
  if (service !== undefined && report.total.connections === 0 && !known.includes(service)) {
    process.stderr.write(`headrace: no service "${service}"${suggestion(service, known)}\n`)
    process.stderr.write(`the services are ${known.join(', ')}\n`)
    return 2
  }
  if (!existsSync(stateDirectory)) {
    process.stderr.write(`headrace: warning: there is no ${stateDirectory}: nothing was recorded there yet\n`)
  }
  for (const trouble of report.troubles) process.stderr.write(`headrace: warning: ${month}: ${trouble}\n`)
  process.stdout.write(FORMS[form](report))
  return 0
}

function jsonOf(report: UsageReport): string {
  return `${JSON.stringify(report, null, 2)}\n`
}

const CSV_HEAD =
  'month,service,connections,minutes,minutes_in_millions,client_to_origin_bytes,origin_to_client_bytes,head_to_origin_bytes,head_to_client_bytes'

/** Ids of services need no quotes. */
function csvOf({ month, services }: UsageReport): string {
  const lines = services.map(({ service, connections, minutes, bytes }) =>
    [
      ...[month, service, connections, minutes, inMillions(minutes)],
      ...[bytes.clientToOrigin, bytes.originToClient, bytes.headToOrigin, bytes.headToClient],
    ].join(','),
  )
  return [CSV_HEAD, ...lines].map((line) => `${line}\n`).join('')
}

const COLUMNS = ['service', 'connections', 'minutes', 'in millions', 'client to origin', 'origin to client']

function tableOf({ month, services, total }: UsageReport): string {
  if (services.length === 0) return `usage of ${month} (UTC): none\n`
  const rows = services.map(({ service, ...usage }) => [service, ...cellsOf(usage)])
  const all = [COLUMNS, ...rows, ...(services.length > 1 ? [['total', ...cellsOf(total)]] : [])]
  const widths = COLUMNS.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  const lines = all.map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  '),
  )
  return `usage of ${month} (UTC)\n\n${lines.join('\n')}\n`
}

function cellsOf({ connections, minutes, bytes }: Omit<ServiceUsage, 'service'>): string[] {
  return [
    grouped(connections),
    grouped(minutes),
    `${inMillions(minutes)} M`,
    bytesText(bytes.clientToOrigin),
    bytesText(bytes.originToClient),
  ]
}

function inMillions(minutes: number): string {
  return (minutes / 1e6).toFixed(6)
}

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** For people, and exactly. */
function bytesText(count: number): string {
  let size = count
  let unit = ''
  for (const next of UNITS) {
    if (size < 1_024) break
    size /= 1_024
    unit = next
  }
  return unit === '' ? `${count} B` : `${size.toFixed(1)} ${unit} (${grouped(count)} B)`
}

function grouped(count: number): string {
  return String(count).replace(/\B(?=([0-9]{3})+$)/g, ',')
}
