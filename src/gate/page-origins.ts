// The pages that may open WebSockets: allowed values of Origin (RFC 6454), against cross-site hijacking. A browser tells
// the page's origin truly; whatever is no browser may say anything, or nothing.

interface Origin {
  readonly scheme: string
  readonly host: string
  /** With the scheme's default in it; '' if there is none. */
  readonly port: string
}

/** `https://*.example.com`: all names below example.com, at any depth, and not itself. */
interface Wildcard {
  readonly schemes: readonly string[]
  /** With its dot. */
  readonly suffix: string
  readonly port: string | undefined
}

export interface OriginList {
  /** Of the value of an Origin field. */
  has(value: string): boolean
}

const ORIGIN = /^([a-z][a-z0-9+.-]*):\/\/([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?$/
const PATTERN = /^(?:([a-z][a-z0-9+.-]*):\/\/)?((?:\*\.)?[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?$/
const DEFAULT_PORTS: Readonly<Record<string, string>> = { http: '80', https: '443', ws: '80', wss: '443' }
const WEB = ['http', 'https']

/**
 * Entries are `https://chat.example.com`, `https://*.example.com`, with a port if it isn't the scheme's own, without a
 * scheme for http and https, or `null`, which sandboxed frames and local files send. Others match nothing.
 */
export function originList(entries: readonly string[]): OriginList {
  const exact = new Set<string>()
  const wildcards: Wildcard[] = []
  for (const entry of entries.map((one) => one.toLowerCase())) {
    const [, scheme, host = '', port] = PATTERN.exec(entry) ?? []
    const schemes = scheme === undefined ? WEB : [scheme]
    if (entry === 'null') exact.add('null')
    else if (host.startsWith('*.')) wildcards.push({ schemes, suffix: host.slice(1), port })
    else for (const one of schemes) exact.add(textOf({ scheme: one, host, port: portOf(one, port) }))
  }
  return {
    has(value) {
      if (value === 'null') return exact.has('null')
      const origin = parse(value)
      return origin !== null && (exact.has(textOf(origin)) || wildcards.some((one) => isBelow(one, origin)))
    },
  }
}

function isBelow({ schemes, suffix, port }: Wildcard, origin: Origin): boolean {
  return (
    schemes.includes(origin.scheme) &&
    origin.host.length > suffix.length &&
    origin.host.endsWith(suffix) &&
    origin.port === portOf(origin.scheme, port)
  )
}

function parse(value: string): Origin | null {
  const [, scheme, host, port] = ORIGIN.exec(value.toLowerCase()) ?? []
  if (scheme === undefined || host === undefined) return null
  return { scheme, host, port: portOf(scheme, port) }
}

function portOf(scheme: string, port: string | undefined): string {
  return port ?? DEFAULT_PORTS[scheme] ?? ''
}

function textOf({ scheme, host, port }: Origin): string {
  return `${scheme}://${host}:${port}`
}
