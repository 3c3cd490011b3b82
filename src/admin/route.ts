// A route: one entry of the table, with all that is to be known of it, so that what is served and what is documented are
// the same. A handler gets what was checked and answers with a Reply, or with a Fault.

import type { ServerResponse } from 'node:http'
import type { z } from 'zod'
import type { Operations, ProgramStatus, Reloading, ReloadProblem, Upgrading } from '../operations.ts'
import type { Live } from './live.ts'
import type { Role } from './roles.ts'

/** What the API is made of: all workers together. */
export type AdminOperations = Operations & ProgramStatus & Reloading & Upgrading

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export type Reply =
  | { readonly status: number; readonly json: unknown }
  | {
      readonly status: number
      readonly text: string
      readonly type: string
      readonly fields?: Readonly<Record<string, string>>
    }
  | Streamed
  | { readonly status: 204 }

/** An answer that goes on until a side ends it. */
export interface Streamed {
  readonly status: 200
  readonly type: string
  /** Owns the response from now on. `mayStay`: whether the caller still has what the route needs. */
  stream(response: ServerResponse, mayStay: () => boolean): void
}

/** What went wrong, for whoever asked. Each dialect has its own way to say it. */
export interface Fault {
  readonly status: number
  readonly detail: string
  /** A code of errors.ts, if it is one. */
  readonly code?: string
  /** Each thing that is wrong, if it is several. */
  readonly errors?: readonly ReloadProblem[]
  readonly fields?: Readonly<Record<string, string>>
}

/** How a family of routes writes its errors. */
export interface Dialect {
  readonly type: string
  readonly schema: z.ZodType
  write(fault: Fault): unknown
}

export interface Call<Query, Body> {
  readonly operations: AdminOperations
  readonly live: Live
  readonly params: Readonly<Record<string, string>>
  readonly query: Query
  readonly body: Body
  /** The field Accept, or ''. */
  readonly accept: string
  /** Writes who has changed what. */
  changed(what: string, of: string, before: unknown, after: unknown, ended: number): void
}

interface Answered {
  readonly what: string
  readonly schema: z.ZodType | null
  /** Default: JSON, or plain text if the schema is a string's. */
  readonly type?: string
}

interface Described {
  readonly method: Method
  /** With parameters as OpenAPI has them: `/tunnels/{id}`. */
  readonly path: string
  /** What the caller needs; null: nothing, not even a token. */
  readonly role: Role | null
  readonly dialect: Dialect
  readonly summary: string
  /** What is answered, but for faults. */
  readonly answers: Readonly<Record<number, Answered>>
}

interface Typed<Query, Body> extends Described {
  readonly query: z.ZodType<Query>
  readonly body: z.ZodType<Body>
  handle(call: Call<Query, Body>): Promise<Reply | Fault>
}

export interface Route extends Described {
  readonly query: z.ZodType
  readonly body: z.ZodType
  run(call: Call<unknown, unknown>): Promise<Reply | Fault>
}

export function route<Query, Body>({ handle, ...one }: Typed<Query, Body>): Route {
  const { query, body } = one
  return {
    ...one,
    async run(call) {
      const asked = query.safeParse(call.query)
      if (!asked.success) return { status: 400, detail: issuesOf('query', asked.error) }
      const given = body.safeParse(call.body)
      if (!given.success) return { status: 400, detail: issuesOf('body', given.error) }
      return await handle({ ...call, query: asked.data, body: given.data })
    },
  }
}

function issuesOf(where: string, { issues }: z.ZodError): string {
  return issues.map(({ path, message }) => `${[where, ...path].join('.')}: ${message}`).join('; ')
}

export type Params = Readonly<Record<string, string>>

/** The parameters if the path is the route's, else null. */
export function paramsOf(pattern: string, path: string): Params | null {
  const [wanted, given] = [pattern.split('/'), path.split('/')]
  if (wanted.length !== given.length) return null
  const params: Record<string, string> = {}
  for (const [at, part] of wanted.entries()) {
    const text = given[at] ?? ''
    const [, name] = /^\{(\w+)\}$/.exec(part) ?? []
    if (name === undefined) {
      if (part !== text) return null
    } else {
      const value = decoded(text)
      if (value === null || value === '') return null
      params[name] = value
    }
  }
  return params
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}
