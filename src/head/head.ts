// The head of a message as a value: its start line and its fields, in the order and the letter case in which they came.

export interface Field {
  /** As it was sent. */
  readonly name: string
  /** Without the white space around it; bytes as latin1. */
  readonly value: string
  /** The name in lower case: what fields are looked up by (RFC 9110 section 5.1). */
  readonly key: string
}

export interface RequestHead {
  readonly method: string
  /** The request target as it was sent (RFC 9112 section 3.2). */
  readonly target: string
  /** `1.1`, `1.0`, … */
  readonly version: string
  readonly fields: readonly Field[]
}

export interface ResponseHead {
  readonly version: string
  readonly status: number
  /** The reason phrase; may be empty. */
  readonly reason: string
  readonly fields: readonly Field[]
}

export function field(name: string, value: string): Field {
  return { name, value, key: name.toLowerCase() }
}

/** Fields from a flat list of names and values, as node's `rawHeaders` are. */
export function fieldsOf(flat: readonly string[]): Field[] {
  const fields: Field[] = []
  for (let at = 0; at + 1 < flat.length; at += 2) fields.push(field(flat[at] ?? '', flat[at + 1] ?? ''))
  return fields
}

/** The opposite of `fieldsOf`. */
export function flatFields(fields: readonly Field[]): string[] {
  return fields.flatMap(({ name, value }) => [name, value])
}

/** The values of all fields of this name (`key` in lower case), in their order. */
export function valuesOf(fields: readonly Field[], key: string): string[] {
  const values: string[] = []
  for (const field of fields) if (field.key === key) values.push(field.value)
  return values
}

export function firstValue(fields: readonly Field[], key: string): string | undefined {
  for (const field of fields) if (field.key === key) return field.value
  return undefined
}

/** The members of a list field in lower case, over all fields of this name (RFC 9110 section 5.6.1). */
export function tokensOf(fields: readonly Field[], key: string): string[] {
  const tokens: string[] = []
  for (const field of fields) {
    if (field.key !== key) continue
    for (const part of field.value.split(',')) {
      const token = part.trim().toLowerCase()
      if (token !== '') tokens.push(token)
    }
  }
  return tokens
}

/** What ends at the next hop, whether `Connection` names it or not (RFC 9110 section 7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authorization',
  'proxy-authenticate',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** What a message can't be without, whatever `Connection` says: its site, and the length of its body. */
const NEVER_DROPPED = new Set(['host', 'content-length'])

/** The fields that go on to the next hop: without the hop-by-hop ones and those that `Connection` names. */
export function endToEnd(fields: readonly Field[], except: readonly string[] = []): Field[] {
  const named = tokensOf(fields, 'connection')
  return fields.filter(({ key }) => {
    if (except.includes(key) || NEVER_DROPPED.has(key)) return true
    return !(HOP_BY_HOP.has(key) || named.includes(key))
  })
}

/** Head bytes as a latin1 string, ready to be written. */
export function requestBytes(head: RequestHead): string {
  return `${head.method} ${head.target} HTTP/${head.version}\r\n${fieldLines(head.fields)}\r\n`
}

export function responseBytes(head: Omit<ResponseHead, 'version'>): string {
  return `HTTP/1.1 ${head.status} ${head.reason}\r\n${fieldLines(head.fields)}\r\n`
}

function fieldLines(fields: readonly Field[]): string {
  let lines = ''
  for (const { name, value } of fields) lines += `${name}: ${value}\r\n`
  return lines
}
