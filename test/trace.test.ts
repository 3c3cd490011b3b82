// OpenTelemetry: fields pass through as they are while nobody traces; with a tracer there is one span for each handoff, a
// child of the client's and the parent of the origin's.

import { context, propagation, trace } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-node'
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import type { Test } from 'tap'
import t from 'tap'
import type { Origin } from './support/origin.ts'
import { startOrigin, switching, upgradeRequest } from './support/origin.ts'
import type { Peer } from './support/peer.ts'
import { connectTo } from './support/peer.ts'
import type { Started } from './support/tunnel.ts'
import { startTunnel } from './support/tunnel.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const PARENT = 'b7ad6b7169203331'
const FIELDS = { TraceParent: `00-${TRACE}-${PARENT}-01`, tracestate: 'vendor=1,other=2', baggage: 'a=b' }

let exporter = new InMemorySpanExporter()

function register(t: Test): void {
  exporter = new InMemorySpanExporter()
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  provider.register()
  t.teardown(async () => {
    await provider.shutdown()
    trace.disable()
    propagation.disable()
    context.disable()
  })
}

interface Asked {
  readonly client: Peer
  readonly atOrigin: Peer
  readonly head: string
}

async function askThrough(t: Test, started: Started, origin: Origin, request: string): Promise<Asked> {
  const client = await connectTo(t, started.address)
  client.write(request)
  const atOrigin = await origin.next()
  return { client, atOrigin, head: await atOrigin.until('\r\n\r\n') }
}

function fieldIn(head: string, name: string): string | undefined {
  return new RegExp(`^${name}: (.*)\r$`, 'm').exec(head)?.[1]
}

function spans(): ReadableSpan[] {
  return exporter.getFinishedSpans()
}

/** A request has its answer a little before its span ends. */
async function endedSpan(): Promise<ReadableSpan> {
  while (spans().length === 0) await new Promise(setImmediate)
  const [span, ...others] = spans()
  if (span === undefined || others.length > 0) throw new Error(`${others.length + 1} spans`)
  return span
}

t.test('without a tracer the origin gets the fields of the client, byte for byte', async (t) => {
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const { head } = await askThrough(t, started, origin, upgradeRequest(FIELDS))
  for (const [name, value] of Object.entries(FIELDS)) t.equal(fieldIn(head, name), value)
  const other = await askThrough(t, started, origin, upgradeRequest())
  t.notMatch(other.head, /traceparent/i)
})

t.test('with a tracer the span of a handoff stands between those of the client and the origin', async (t) => {
  register(t)
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const asked = await askThrough(
    t,
    started,
    origin,
    upgradeRequest({ ...FIELDS, 'User-Agent': 'ua' }, '/chat?token=x'),
  )
  t.equal(spans().length, 0)
  asked.atOrigin.write(switching(asked.head))
  await asked.client.until('\r\n\r\n')
  const span = await endedSpan()
  const { traceId, spanId } = span.spanContext()
  t.equal(traceId, TRACE)
  t.equal(span.parentSpanContext?.spanId, PARENT)
  t.equal(fieldIn(asked.head, 'traceparent'), `00-${TRACE}-${spanId}-01`)
  t.notMatch(asked.head, /TraceParent/)
  t.equal(fieldIn(asked.head, 'tracestate'), FIELDS.tracestate)
  t.equal(fieldIn(asked.head, 'baggage'), FIELDS.baggage)
  t.match(span, {
    name: 'GET',
    kind: 1,
    status: { code: 0 },
    attributes: {
      'http.request.method': 'GET',
      'url.scheme': 'http',
      'url.path': '/chat',
      'network.protocol.version': '1.1',
      'server.address': 'chat.test',
      'client.address': '127.0.0.1',
      'user_agent.original': 'ua',
      'http.response.status_code': 101,
      'headrace.service': 'chat',
      'headrace.backend': 'origin',
      'headrace.id': String,
    },
  })
})

t.test('a client without a trace begins one, and a broken one is not passed on', async (t) => {
  register(t)
  const origin = await startOrigin(t)
  const started = await startTunnel(t, origin.address)
  const broken = { traceparent: '00-nonsense-01', tracestate: 'vendor=1' }
  const { client, atOrigin, head } = await askThrough(t, started, origin, upgradeRequest(broken))
  atOrigin.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
  await client.until('\r\n\r\n')
  const span = await endedSpan()
  const { traceId, spanId } = span.spanContext()
  t.equal(span.parentSpanContext, undefined)
  t.equal(fieldIn(head, 'traceparent'), `00-${traceId}-${spanId}-01`)
  t.notMatch(head, /tracestate/)
  t.match(span, { status: { code: 0 }, attributes: { 'http.response.status_code': 200 } })
})

t.test('a refusal ends its span: an error if it is not the client who is to blame', async (t) => {
  register(t)
  const started = await startTunnel(t, '127.0.0.1:1')
  const client = await connectTo(t, started.address)
  client.write(upgradeRequest(FIELDS))
  t.match(await client.until('\r\n\r\n'), / 502 /)
  t.match(await endedSpan(), {
    status: { code: 2, message: /refused/ },
    attributes: {
      'error.type': 'dial-refused',
      'http.response.status_code': 502,
      'headrace.backend': 'origin',
    },
  })
  exporter.reset()
  const other = await connectTo(t, started.address)
  other.write(upgradeRequest({ 'Sec-WebSocket-Version': '12' }))
  t.match(await other.until('\r\n\r\n'), / 426 /)
  t.match(await endedSpan(), {
    status: { code: 0 },
    attributes: { 'error.type': 'websocket-version', 'http.response.status_code': 426 },
  })
})
