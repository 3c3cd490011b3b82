// What is counted of a service. All of them are sums, so that deltas can be added in any order.

export interface Amounts {
  /** Tunnels that began. */
  connections: number
  /** Started minutes of connections. */
  minutes: number
  /** Bytes behind the heads, as the tunnels count them. */
  clientToOrigin: number
  originToClient: number
  /** Bytes of the heads that Headrace sent: the upgrade request to the origin, the 101 to the client. */
  headToOrigin: number
  headToClient: number
}

export interface Delta {
  readonly service: string
  readonly amounts: Readonly<Amounts>
}

/** The order in which they are written. */
export const AMOUNTS = [
  'connections',
  'minutes',
  'clientToOrigin',
  'originToClient',
  'headToOrigin',
  'headToClient',
] as const satisfies readonly (keyof Amounts)[]

export function nothing(): Amounts {
  return {
    connections: 0,
    minutes: 0,
    clientToOrigin: 0,
    originToClient: 0,
    headToOrigin: 0,
    headToClient: 0,
  }
}

export function isNothing(amounts: Readonly<Amounts>): boolean {
  return AMOUNTS.every((name) => amounts[name] === 0)
}

export function add(to: Amounts, more: Readonly<Amounts>): void {
  for (const name of AMOUNTS) to[name] += more[name]
}

/** For people. */
export function textOf(amounts: Readonly<Amounts>): string {
  const { connections, minutes, clientToOrigin, originToClient, headToOrigin, headToClient } = amounts
  const bytes = `${clientToOrigin} + ${originToClient} bytes, heads of ${headToOrigin} + ${headToClient}`
  return `${connections} connections, ${minutes} minutes, ${bytes}`
}

/** Adds to the sums of a service. */
export function addTo(sums: Map<string, Amounts>, { service, amounts }: Delta): void {
  let known = sums.get(service)
  if (known === undefined) {
    known = nothing()
    sums.set(service, known)
  }
  add(known, amounts)
}
