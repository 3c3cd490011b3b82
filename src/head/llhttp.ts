// The binding to llhttp (WebAssembly, strict, no lenient flag is ever set). The only file that knows the parser's ABI.
// Bytes of a message come in; its head, and where the head and the message end, come out.
//
// Module state: one WebAssembly instance with one scratch buffer for the whole process. A call into it is synchronous
// and can't be interleaved, so the parser that runs is known by a single variable.

import { readFileSync } from 'node:fs'
import type { Field, RequestHead, ResponseHead } from './head.ts'
import { field } from './head.ts'

/** llhttp's own constants (llhttp.h). */
const TYPE = { request: 1, response: 2 } as const
const HPE_OK = 0
const HPE_PAUSED = 21
const HPE_PAUSED_UPGRADE = 22
const HPE_USER = 24

const CR = 13
const LF = 10
/** RFC 9112 section 2.2 wants at least one empty line before the start line to be ignored; a few are enough. */
const LEADING_BYTES = 8
/** How many bytes are given to llhttp at once; also the largest head that can be configured. */
export const SCRATCH_SIZE = 64 * 1024

// What is used of the WebAssembly API; its types come with the DOM's only.
declare const WebAssembly: {
  Module: new (bytes: Uint8Array) => object
  Instance: new (module: object, imports: object) => { readonly exports: unknown }
}

interface Llhttp {
  readonly memory: { readonly buffer: ArrayBuffer }
  malloc(size: number): number
  llhttp_alloc(type: number): number
  llhttp_free(parser: number): void
  llhttp_execute(parser: number, data: number, length: number): number
  llhttp_finish(parser: number): number
  llhttp_resume(parser: number): void
  llhttp_get_errno(parser: number): number
  llhttp_get_error_pos(parser: number): number
  llhttp_get_error_reason(parser: number): number
  llhttp_get_method(parser: number): number
  llhttp_method_name(method: number): number
  llhttp_get_status_code(parser: number): number
  llhttp_get_http_major(parser: number): number
  llhttp_get_http_minor(parser: number): number
}

export interface HeadLimits {
  /** Bytes from the first byte of the message to the end of its head; at most 65,536. */
  readonly headSize: number
  readonly headFields: number
}

/** Why a message can't go on. `too-large` and `too-many-fields` are ours; llhttp has no limits of its own. */
export interface Fault {
  readonly kind: 'malformed' | 'too-large' | 'too-many-fields'
  readonly detail: string
}

/**
 * One message being parsed. Feed it until `isHeadComplete`; for a body feed on until `isComplete`. `free` it in the end,
 * whatever happened: it holds memory that no garbage collector sees.
 */
export class MessageParser {
  readonly limits: HeadLimits
  readonly fields: Field[] = []
  isHeadComplete = false
  isComplete = false
  fault: Fault | null = null
  #pointer: number
  #headBytes = 0
  #leadingBytes = 0
  #hasBegun = false
  #target = ''
  #reason = ''
  #name = ''
  #value = ''
  #isInName = false

  constructor(type: keyof typeof TYPE, limits: HeadLimits) {
    this.limits = limits
    this.#pointer = llhttp.llhttp_alloc(TYPE[type])
  }

  /**
   * Parses bytes. Returns how many of them were taken: all, or up to the end of the head, or (fed again after that) up
   * to the end of the message, or up to a `fault`.
   */
  feed(bytes: Uint8Array): number {
    let taken = 0
    // A message without a body is complete right behind its head, which llhttp tells when it is called again.
    if (this.isHeadComplete && bytes.length === 0) this.#execute(bytes)
    while (taken < bytes.length && this.fault === null && !this.isComplete) {
      const wasHead = !this.isHeadComplete
      const room = wasHead ? Math.min(this.limits.headSize - this.#headBytes, SCRATCH_SIZE) : SCRATCH_SIZE
      const part = bytes.subarray(taken, taken + room)
      if (!this.#hasBegun && !this.#countLeading(part)) break
      const count = this.#execute(part)
      taken += count
      if (!wasHead) continue
      this.#headBytes += count
      if (this.isHeadComplete) break
      if (this.#headBytes >= this.limits.headSize)
        this.#fail('too-large', `over ${this.limits.headSize} bytes`)
    }
    return taken
  }

  /** Tells that the connection was closed. Returns true if the message may end so: a body that lasts until the close. */
  finish(): boolean {
    running = this
    llhttp.llhttp_finish(this.#pointer)
    running = null
    return this.isComplete
  }

  free(): void {
    llhttp.llhttp_free(this.#pointer)
    this.#pointer = 0
  }

  requestHead(): RequestHead {
    const method = methodName(llhttp.llhttp_get_method(this.#pointer))
    return { method, target: this.#target, version: this.#version(), fields: this.fields }
  }

  responseHead(): ResponseHead {
    const status = llhttp.llhttp_get_status_code(this.#pointer)
    return { version: this.#version(), status, reason: this.#reason, fields: this.fields }
  }

  #version(): string {
    return `${llhttp.llhttp_get_http_major(this.#pointer)}.${llhttp.llhttp_get_http_minor(this.#pointer)}`
  }

  /** llhttp skips empty lines before the start line without an end, and bare CR or LF among them. */
  #countLeading(part: Uint8Array): boolean {
    for (const byte of part) {
      if (byte !== (this.#leadingBytes % 2 === 0 ? CR : LF)) {
        const isBare = byte === CR || byte === LF || this.#leadingBytes % 2 === 1
        this.#hasBegun = true
        if (isBare) this.#fail('malformed', 'a bare CR or LF before the start line')
        return !isBare
      }
      this.#leadingBytes += 1
      if (this.#leadingBytes > LEADING_BYTES) {
        this.#fail('malformed', 'too many empty lines before the start line')
        return false
      }
    }
    return true
  }

  #execute(part: Uint8Array): number {
    scratch().set(part)
    if (llhttp.llhttp_get_errno(this.#pointer) === HPE_PAUSED) llhttp.llhttp_resume(this.#pointer)
    running = this
    runningLength = part.length
    const result = llhttp.llhttp_execute(this.#pointer, scratchAt, part.length)
    running = null
    runningText = null
    if (result === HPE_OK) return part.length
    if (result !== HPE_PAUSED && result !== HPE_PAUSED_UPGRADE) {
      // HPE_USER is our own, with its fault set already. The preface of HTTP/2 arrives here as a pause of its own.
      if (result !== HPE_USER) this.#fail('malformed', cString(llhttp.llhttp_get_error_reason(this.#pointer)))
    }
    return llhttp.llhttp_get_error_pos(this.#pointer) - scratchAt
  }

  #fail(kind: Fault['kind'], detail: string): void {
    this.fault ??= { kind, detail }
  }

  // llhttp's callbacks. A span can come in several pieces when a chunk ends inside it.

  onTarget(piece: string): void {
    this.#target += piece
  }

  onReason(piece: string): void {
    this.#reason += piece
  }

  onName(piece: string): number {
    if (!this.#isInName) this.#endField()
    this.#isInName = true
    this.#name += piece
    if (this.fields.length < this.limits.headFields) return HPE_OK
    this.#fail('too-many-fields', `over ${this.limits.headFields} fields`)
    return HPE_USER
  }

  onValue(piece: string): void {
    this.#isInName = false
    this.#value += piece
  }

  onHeadComplete(): number {
    this.#isInName = false
    this.#endField()
    this.isHeadComplete = true
    return HPE_PAUSED
  }

  onComplete(): number {
    this.isComplete = true
    return HPE_PAUSED
  }

  #endField(): void {
    if (this.#name === '') return
    this.fields.push(field(this.#name, withoutTrailingSpace(this.#value)))
    this.#name = ''
    this.#value = ''
  }
}

let running: MessageParser | null = null
/** The bytes of the running call as a string, made when the first span asks for it. */
let runningText: string | null = null
let runningLength = 0
const llhttp = instantiate()
const scratchAt = llhttp.malloc(SCRATCH_SIZE)
let view = Buffer.from(llhttp.memory.buffer)
const methodNames = new Map<number, string>()

function instantiate(): Llhttp {
  const module = new WebAssembly.Module(readFileSync(new URL('llhttp.wasm', import.meta.url)))
  const instance = new WebAssembly.Instance(module, {
    env: {
      wasm_on_message_begin: () => HPE_OK,
      wasm_on_url: (_: number, at: number, length: number) => running?.onTarget(text(at, length)),
      wasm_on_status: (_: number, at: number, length: number) => running?.onReason(text(at, length)),
      wasm_on_header_field: (_: number, at: number, length: number) => running?.onName(text(at, length)),
      wasm_on_header_value: (_: number, at: number, length: number) => running?.onValue(text(at, length)),
      wasm_on_headers_complete: () => running?.onHeadComplete(),
      wasm_on_body: () => HPE_OK,
      wasm_on_message_complete: () => running?.onComplete(),
    },
  })
  return instance.exports as Llhttp
}

/** The instance's memory; its buffer is another one after it has grown. */
function memory(): Buffer {
  if (view.buffer !== llhttp.memory.buffer) view = Buffer.from(llhttp.memory.buffer)
  return view
}

function scratch(): Uint8Array {
  return memory().subarray(scratchAt, scratchAt + SCRATCH_SIZE)
}

/** One decoding for all spans of a call: half the time of a head is otherwise spent in a decoding for each. */
function text(at: number, length: number): string {
  runningText ??= memory().toString('latin1', scratchAt, scratchAt + runningLength)
  return runningText.slice(at - scratchAt, at - scratchAt + length)
}

/** llhttp leaves the optional white space after a value in it (RFC 9112 section 5.1). */
function withoutTrailingSpace(value: string): string {
  let end = value.length
  while (end > 0 && (value[end - 1] === ' ' || value[end - 1] === '\t')) end -= 1
  return end === value.length ? value : value.slice(0, end)
}

function cString(at: number): string {
  return at === 0 ? '' : memory().toString('latin1', at, memory().indexOf(0, at))
}

function methodName(method: number): string {
  const known = methodNames.get(method)
  if (known !== undefined) return known
  const name = cString(llhttp.llhttp_method_name(method))
  methodNames.set(method, name)
  return name
}
