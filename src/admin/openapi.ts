// The OpenAPI 3.1 document, made of the table of routes: what is served and what is said of it can't differ.

import { z } from 'zod'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing } from './schemas.ts'

const document = z.object({ openapi: z.literal('3.1.0'), paths: z.record(z.string(), z.unknown()) })

/** `routes`: asked for when it is served, since this is one of them. */
export function openapiRoute(routes: () => readonly Route[]): Route {
  return route({
    method: 'GET',
    path: '/openapi.json',
    role: null,
    dialect: problem,
    summary: 'This document',
    query: noQuery,
    body: nothing,
    answers: { 200: { what: 'OpenAPI 3.1', schema: document } },
    handle: async () => ({ status: 200, json: describe(routes()) }),
  })
}

function describe(routes: readonly Route[]): z.input<typeof document> {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const one of routes) {
    paths[one.path] = { ...paths[one.path], [one.method.toLowerCase()]: operation(one) }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Headrace admin API',
      version: '1',
      description:
        'Roles: user may read, engineer may switch WebSockets on and off, superuser may end tunnels and reload.',
    },
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        fastlyKey: { type: 'apiKey', in: 'header', name: 'Fastly-Key' },
      },
    },
  } as z.input<typeof document>
}

function operation({ path, role, summary, query, body, answers, dialect }: Route): object {
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
  const responses = Object.entries(answers).map(([status, { what, schema, type }]) => [
    status,
    { description: what, ...(schema === null ? {} : { content: contentOf(schema, type) }) },
  ])
  const fault = { description: 'A fault', content: { [dialect.type]: { schema: schemaOf(dialect.schema) } } }
  return {
    summary,
    ...(role === null ? {} : { 'x-role': role, security: [{ bearer: [] }, { fastlyKey: [] }] }),
    parameters: [...inPath, ...queryParameters(query)],
    ...(body === nothing
      ? {}
      : { requestBody: { content: { 'application/json': { schema: schemaOf(body) } } } }),
    responses: { ...Object.fromEntries(responses), default: fault },
  }
}

function queryParameters(query: z.ZodType): object[] {
  const { properties = {}, required = [] } = schemaOf(query)
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    schema,
  }))
}

function contentOf(schema: z.ZodType, type?: string): object {
  const usual = schema instanceof z.ZodString ? 'text/plain' : 'application/json'
  return { [type ?? usual]: { schema: schemaOf(schema) } }
}

interface JsonSchema {
  readonly properties?: Readonly<Record<string, unknown>>
  readonly required?: readonly string[]
}

function schemaOf(schema: z.ZodType): JsonSchema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
  return rest as JsonSchema
}
