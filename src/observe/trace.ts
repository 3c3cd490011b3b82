// One span for each handoff, if whoever embeds Headrace has registered an OpenTelemetry tracer; nothing at all if not. Its
// parent is what the client's fields say (traceparent, or what the embedder's propagator reads), and the origin gets the
// span's own: without a tracer the client's fields pass through as they are.

import type { Span, TextMapGetter } from '@opentelemetry/api'
import {
  ProxyTracerProvider,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api'
import type { Client } from '../accept/client.ts'
import { entry } from '../errors.ts'
import type { Field, RequestHead } from '../head/head.ts'
import { field, firstValue } from '../head/head.ts'
import type { HandoffSpan } from '../tunnel/set-up.ts'

const NAME = 'headrace'

/** Null: nobody traces. */
export function startSpan(id: string, client: Client, head: RequestHead): HandoffSpan | null {
  const provider = trace.getTracerProvider()
  if (provider instanceof ProxyTracerProvider && provider.getDelegateTracer(NAME) === undefined) return null
  const parent = propagation.extract(ROOT_CONTEXT, head.fields, getter)
  const options = { kind: SpanKind.SERVER, attributes: attributesOf(id, client, head) }
  const span = trace.getTracer(NAME).startSpan(head.method, options, parent)
  return {
    carried(request) {
      const own: Record<string, string> = {}
      propagation.inject(trace.setSpan(parent, span), own)
      const owned = new Set(propagation.fields().map((name) => name.toLowerCase()))
      const kept = request.fields.filter(({ key }) => !owned.has(key))
      return {
        ...request,
        fields: [...kept, ...Object.entries(own).map(([name, value]) => field(name, value))],
      }
    },
    answered(status) {
      answer(span, status)
    },
    failed({ code, message }) {
      const { status } = entry(code)
      span.setAttribute('error.type', code)
      if (status !== null) answer(span, status)
      // What clients do wrong is no error of a server's span.
      if (status === null || status >= 500) span.setStatus({ code: SpanStatusCode.ERROR, message })
    },
    end(service, backend) {
      if (service !== null) span.setAttribute('headrace.service', service)
      if (backend !== null) span.setAttribute('headrace.backend', backend)
      span.end()
    },
  }
}

/** By the semantic conventions of HTTP servers. The query is left out: it often holds tokens. */
function attributesOf(id: string, client: Client, { method, target, version, fields }: RequestHead) {
  const mark = target.indexOf('?')
  return {
    'http.request.method': method,
    'url.scheme': client.tls === null ? 'http' : 'https',
    'url.path': mark === -1 ? target : target.slice(0, mark),
    'network.protocol.version': version,
    'server.address': firstValue(fields, 'host') ?? '',
    'client.address': client.address,
    'user_agent.original': firstValue(fields, 'user-agent') ?? '',
    'headrace.id': id,
  }
}

function answer(span: Span, status: number): void {
  span.setAttribute('http.response.status_code', status)
}

const getter: TextMapGetter<readonly Field[]> = {
  keys: (fields) => fields.map(({ key }) => key),
  get: (fields, name) => firstValue(fields, name.toLowerCase()),
}
