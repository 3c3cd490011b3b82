// An observer that counts what it is told, and tells it to another one.

import type { End } from '../end.ts'
import { endName } from '../end.ts'
import { entry } from '../errors.ts'
import type { Counts } from './counts.ts'
import { count, countOf, countPhases, trafficOf } from './counts.ts'
import type { Observer } from './observer.ts'

export function countingObserver(observer: Observer, counts: Counts): Observer {
  return {
    ...observer,
    asked(service) {
      count(counts.upgrades, service)
      observer.asked(service)
    },
    accepted(tunnel, head, extra) {
      const { facts, backend } = tunnel
      trafficOf(counts, facts.service, backend).opened += 1
      countPhases(counts, facts.service, backend, facts.phases)
      observer.accepted(tunnel, head, extra)
    },
    closed(tunnel, end) {
      const { facts, backend, splicing } = tunnel
      const { bytes } = trafficOf(counts, facts.service, backend)
      bytes.clientToOrigin += splicing?.clientToOrigin ?? 0
      bytes.originToClient += splicing?.originToClient ?? 0
      countOf(counts.ends, facts.service, endName(end.who, end.how, 'tunnel'))
      observer.closed(tunnel, end)
    },
    moved(tunnel, where, bytes) {
      const { facts, backend } = tunnel
      const { bytes: over } = trafficOf(counts, facts.service, backend)
      // What it had moved is counted where it did.
      const sign = where === 'out' ? 1 : -1
      over.clientToOrigin += sign * bytes.clientToOrigin
      over.originToClient += sign * bytes.originToClient
      observer.moved(tunnel, where, bytes)
    },
    refused(request, error, status) {
      const { who, how } = entry(error.code)
      const service = request.service ?? ''
      const end: End = endName(who, how, request.phase)
      countOf(counts.refusals, service, error.code)
      countOf(counts.ends, service, end)
      observer.refused(request, error, status)
    },
    health(event) {
      if (event.health === 'unhealthy') countOf(counts.unhealthy, event.service, event.backend)
      observer.health(event)
    },
    answered(request, status, durationMs) {
      countOf(counts.answered, request.service ?? '', `${Math.floor(status / 100)}xx`)
      observer.answered(request, status, durationMs)
    },
  }
}
