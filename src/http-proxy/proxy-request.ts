// The request on its way to the target, as listeners of `proxyReqWs` change it: what of node's ClientRequest is about its head.

import type { RequestView } from '../handoff/request-view.ts'

export class ProxyRequest {
  readonly #view: RequestView

  constructor(view: RequestView) {
    this.#view = view
  }

  get method(): string {
    return this.#view.method
  }

  /** Path and query. */
  get path(): string {
    return this.#view.url
  }

  /** Throws argument-invalid unless it starts with `/` and has no space or control; ERR_HTTP_HEADERS_SENT once it is sent. */
  set path(path: string) {
    this.#checkTime()
    this.#view.url = path
  }

  /** Throws argument-invalid, also for what belongs to the connection; ERR_HTTP_HEADERS_SENT once they are sent. */
  setHeader(name: string, value: string | number | readonly string[]): this {
    this.#checkTime()
    const [first = '', ...more] = [value].flat().map(String)
    this.#view.headers.set(name, first)
    for (const one of more) this.#view.headers.append(name, one)
    return this
  }

  /** Throws as setHeader does. */
  appendHeader(name: string, value: string | readonly string[]): this {
    this.#checkTime()
    for (const one of [value].flat()) this.#view.headers.append(name, one)
    return this
  }

  /** Throws as setHeader does. */
  removeHeader(name: string): void {
    this.#checkTime()
    this.#view.headers.delete(name)
  }

  /** A list if there are several. */
  getHeader(name: string): string | string[] | undefined {
    const values = this.#view.headers.getAll(name)
    return values.length > 1 ? values : values[0]
  }

  hasHeader(name: string): boolean {
    return this.#view.headers.has(name)
  }

  /** In lower case. */
  getHeaderNames(): string[] {
    return [...new Set(this.#view.headers.fields.map(({ key }) => key))]
  }

  /** By name in lower case. */
  getHeaders(): Record<string, string | string[]> {
    const entries = this.getHeaderNames().map((name) => [name, this.getHeader(name) ?? ''])
    return Object.fromEntries(entries) as Record<string, string | string[]>
  }

  #checkTime(): void {
    if (!this.#view.isDecided) return
    const error = new Error(
      'proxyReq: the request has been sent: change it before the listener of proxyReqWs returns',
    )
    throw Object.assign(error, { code: 'ERR_HTTP_HEADERS_SENT' })
  }
}
