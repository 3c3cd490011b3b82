// A line of the journal: what was counted of one service since its last line.
//
//   TIME SERVICE CONNECTIONS MINUTES CLIENT_TO_ORIGIN ORIGIN_TO_CLIENT HEAD_TO_ORIGIN HEAD_TO_CLIENT CHECKSUM
//
// TIME in epoch ms, for people; the checksum is CRC-32 in hexadecimal. Into it goes the place of the line (`2026-11` and the
// name of the file), so that a line counts only where it was written: a copy of a file is not counted a second time.

import { crc32 } from 'node:zlib'
import type { Amounts, Delta } from './amounts.ts'

/** A line is shorter, whatever a service is called. */
export const LINE_LIMIT = 512

const LINE = /^([0-9]{1,16} ([A-Za-z0-9_-]{1,128})((?: [0-9]{1,16}){6})) ([0-9a-f]{8})$/
/** What the beginning of a line may look like; or the zeros that a file can end in after a power failure. */
const BEGINNING = /^(?:[0-9]{1,16}(?: |$)|\0)/

/** `place`: see placeOf. With its line break. */
export function formatLine(place: string, at: number, { service, amounts }: Delta): string {
  const { connections, minutes, clientToOrigin, originToClient, headToOrigin, headToClient } = amounts
  const text = `${at} ${service} ${connections} ${minutes} ${clientToOrigin} ${originToClient} ${headToOrigin} ${headToClient}`
  return `${text} ${checksum(place, text)}\n`
}

/** `torn`: a line that was not written to its end, or was changed. `foreign`: nothing of ours. */
export function parseLine(place: string, line: string): Delta | 'torn' | 'foreign' {
  const [, text = '', service = '', amounts = '', sum] = LINE.exec(line) ?? []
  if (sum === undefined || sum !== checksum(place, text)) return BEGINNING.test(line) ? 'torn' : 'foreign'
  return { service, amounts: amountsOf(amounts.slice(1).split(' ').map(Number)) }
}

function amountsOf(numbers: readonly number[]): Amounts {
  const [
    connections = 0,
    minutes = 0,
    clientToOrigin = 0,
    originToClient = 0,
    headToOrigin = 0,
    headToClient = 0,
  ] = numbers
  return { connections, minutes, clientToOrigin, originToClient, headToOrigin, headToClient }
}

export function checksum(place: string, text: string): string {
  return crc32(text, crc32(place)).toString(16).padStart(8, '0')
}
