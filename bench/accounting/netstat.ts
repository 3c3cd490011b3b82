// What the network of this machine has moved, from /proc/net/netstat: the sender of each byte is on it, and so is its
// receiver, hence everything that is relayed is counted once for each hop.

import { openSync, readSync } from 'node:fs'

export interface Traffic {
  /** Segments with data (TcpExt TCPOrigDataSent): a small message is one. */
  readonly segments: number
  /** Bytes, headers included (IpExt InOctets). */
  readonly octets: number
}

const TEXT = Buffer.allocUnsafeSlow(32_768)

/** Returns a function that reads the counters; it costs some 50 µs, most of it in the kernel. */
export function openNetstat(): () => Traffic {
  const file = openSync('/proc/net/netstat', 'r')
  const read = () => TEXT.toString('latin1', 0, readSync(file, TEXT, 0, TEXT.length, 0))
  const text = read()
  const segments = columnOf(text, 'TcpExt', 'TCPOrigDataSent')
  const octets = columnOf(text, 'IpExt', 'InOctets')
  return () => {
    const text = read()
    return { segments: valueAt(text, 'TcpExt', segments), octets: valueAt(text, 'IpExt', octets) }
  }
}

/** Each group is two lines that start with its name: names, then values. */
function columnOf(text: string, group: string, name: string): number {
  const line = text.split('\n').find((one) => one.startsWith(`${group}: `)) ?? ''
  const column = line.split(' ').indexOf(name)
  if (column === -1) throw new Error(`/proc/net/netstat has no ${group} ${name}`)
  return column
}

function valueAt(text: string, group: string, column: number): number {
  const names = text.indexOf(`${group}: `)
  let at = text.indexOf(`\n${group}: `, names + 1)
  for (let skipped = 0; skipped < column; skipped += 1) at = text.indexOf(' ', at + 1)
  return Number.parseInt(text.slice(at + 1, at + 24), 10)
}
