// A tunnel in front of an origin, torn down with its test; its events can be waited for.

import type { Test } from 'tap'
import type {
  ClosedEvent,
  ConfigInput,
  HealthEvent,
  ListenerInput,
  RefusedEvent,
  Tunnel,
} from '../../src/index.ts'
import { createTunnel } from '../../src/index.ts'

export type ServiceInput = ConfigInput['services'][number]
export type BackendInput = NonNullable<ServiceInput['backends']>[number]

export interface Started {
  readonly tunnel: Tunnel
  readonly address: string
  readonly addresses: readonly string[]
  /** The next tunnel that is closed, or has been and was not asked for yet. */
  closed(): Promise<ClosedEvent>
  refused(): Promise<RefusedEvent>
  /** The next time that a backend becomes healthy or unhealthy. */
  health(): Promise<HealthEvent>
}

export interface Wanted {
  readonly backend?: Partial<BackendInput>
  readonly service?: Partial<ServiceInput>
  readonly options?: Partial<ConfigInput>
  readonly listeners?: readonly ListenerInput[]
}

export async function startTunnel(t: Test, origin: string, wanted: Wanted = {}): Promise<Started> {
  const { backend, service, options, listeners = [{ address: '127.0.0.1:0' }] } = wanted
  const tunnel = createTunnel({
    services: [
      {
        id: 'chat',
        domains: ['*'],
        websockets: 'on',
        backends: [{ name: 'origin', address: origin, ...backend }],
        ...service,
      },
    ],
    ...options,
  })
  const closed = queue<ClosedEvent>((tell) => tunnel.on('closed', tell))
  const refused = queue<RefusedEvent>((tell) => tunnel.on('refused', tell))
  const health = queue<HealthEvent>((tell) => tunnel.on('health', tell))
  t.teardown(() => tunnel.close())
  const { addresses } = await tunnel.listen(listeners)
  return { tunnel, address: addresses[0] ?? '', addresses, closed, refused, health }
}

function queue<Item>(subscribe: (tell: (item: Item) => void) => void): () => Promise<Item> {
  const items: Item[] = []
  const waiting: ((item: Item) => void)[] = []
  subscribe((item) => {
    const next = waiting.shift()
    if (next === undefined) items.push(item)
    else next(item)
  })
  return () => {
    const item = items.shift()
    return item === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(item)
  }
}
