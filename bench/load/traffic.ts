// What goes over a tunnel: questions and answers, one after the other. The request's path tells the origin which.

import { startOf } from './pattern.ts'

/** `echo`: the answer is the question. `up`: a long question, a short answer. `down`: the other way round. */
export type TrafficKind = 'echo' | 'up' | 'down'

export interface Traffic {
  readonly kind: TrafficKind
  /** Bytes of the long one. */
  readonly size: number
}

/** Bytes of the short one. */
const SHORT = 8

export function pathOf({ kind, size }: Traffic, tunnel: number): string {
  return `/bench/${kind}/${size}/${tunnel}`
}

/** Throws if it is no path of this benchmark's. */
export function trafficOf(path: string): Traffic & { readonly tunnel: number } {
  const [, kind, size, tunnel] = /^\/bench\/(echo|up|down)\/(\d+)\/(\d+)$/.exec(path) ?? []
  if (kind === undefined) throw new Error(`the origin was asked for ${path}`)
  return { kind: kind as TrafficKind, size: Number(size), tunnel: Number(tunnel) }
}

export function questionSize({ kind, size }: Traffic): number {
  return kind === 'down' ? SHORT : size
}

export function answerSize({ kind, size }: Traffic): number {
  return kind === 'up' ? SHORT : size
}

/** Where in the pattern the answer to question `transfer` begins. */
export function answerStart(kind: TrafficKind, tunnel: number, transfer: number): number {
  return startOf(tunnel, kind === 'echo' ? transfer : ~transfer)
}
