// Routes: the declarative way to decide. Compiled once; the first that matches wins.

import { pathPattern } from '../pattern.ts'
import type { Decision } from './decision.ts'
import type { HeaderRules } from './fields.ts'
import type { RequestView } from './request-view.ts'

export interface RouteOptions {
  readonly match: {
    /** `websocket`: upgrades only; `none`: everything else only. */
    readonly upgrade: 'websocket' | 'none' | undefined
    /**
     * `/chat` exactly; `/chat/*` what is below; `/rooms/:id/ws` with any one segment in the place of `:id`. Compared with
     * the path as it was sent, letter case included.
     */
    readonly path: string | undefined
    readonly methods: readonly string[] | undefined
    /** Field names and the value that they must have; true for any value. */
    readonly headers: Readonly<Record<string, string | true>>
  }
  /** Rules for the requests of this route, after those of the service. */
  readonly headers: HeaderRules
  readonly action: RouteAction
}

export type RouteAction = Decision

export interface Route {
  matches(request: RequestView): boolean
  readonly headers: HeaderRules
  readonly action: RouteAction
}

export function compileRoute({ match, headers, action }: RouteOptions): Route {
  const path = match.path === undefined ? null : pathPattern(match.path)
  const wanted = Object.entries(match.headers)
  return {
    headers,
    action,
    matches(request) {
      if (match.upgrade !== undefined && (match.upgrade === 'websocket') !== request.isUpgrade) return false
      if (match.methods !== undefined && !match.methods.includes(request.method)) return false
      if (path !== null && !path.test(request.path)) return false
      return wanted.every(([name, value]) =>
        value === true ? request.headers.has(name) : request.headers.getAll(name).includes(value),
      )
    },
  }
}
