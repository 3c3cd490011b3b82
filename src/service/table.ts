// Which service has a host: exact names first, then the longest wildcard, then `*`.

import type { Service } from './service.ts'

export type ServiceTable = (host: string) => Service | undefined

export function serviceTable(services: readonly Service[]): ServiceTable {
  const exact = new Map<string, Service>()
  const wildcards = new Map<string, Service>()
  let fallback: Service | undefined
  for (const service of services) {
    for (const domain of service.options.domains.map((name) => name.toLowerCase())) {
      if (domain === '*') fallback ??= service
      else if (domain.startsWith('*.')) wildcards.set(domain.slice(1), service)
      else exact.set(domain, service)
    }
  }
  return (host) => exact.get(host) ?? byWildcard(wildcards, host) ?? fallback
}

/** `*.example.com` has all names below example.com, at any depth, and not itself. */
function byWildcard(wildcards: ReadonlyMap<string, Service>, host: string): Service | undefined {
  if (wildcards.size === 0) return undefined
  for (let dot = host.indexOf('.', 1); dot !== -1; dot = host.indexOf('.', dot + 1)) {
    const service = wildcards.get(host.slice(dot))
    if (service !== undefined) return service
  }
  return undefined
}
