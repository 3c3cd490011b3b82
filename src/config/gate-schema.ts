// The shape of a service's gate. See schema.ts.

import { z } from 'zod'
import { section } from './section.ts'
import {
  addressBlock,
  count,
  fieldName,
  fieldValue,
  flag,
  list,
  oneOf,
  pageOrigin,
  pathPattern,
  several,
  text,
  wholeSeconds,
  wrong,
} from './values.ts'

const ruleName = text('name of a rule', 'write at most 64 letters, digits, _ and -', /^[A-Za-z0-9_-]{1,64}$/)

const gateRule = section({
  name: ruleName.describe('What logs, events and metrics call it'),
  from: several(addressBlock, 'addresses and CIDR blocks')
    .optional()
    .describe('Clients, by addresses and CIDR blocks'),
  headers: z
    .record(
      fieldName,
      z.union(
        [fieldValue, z.boolean()],
        wrong(
          'value of a header field',
          'put it into quotes, or write true (any value) or false (not there)',
        ),
      ),
      wrong('section', 'write { Name: "value" }'),
    )
    .optional()
    .describe(
      'Fields and their values, in any letter case; * stands for anything, true for any value, false for none',
    ),
  path: pathPattern.optional().describe('As in routes'),
  action: oneOf('action', ['allow', 'deny', 'log']).describe(
    'The first that allows or denies decides; log goes on',
  ),
})

const gateRate = section({
  name: ruleName.describe('What logs, events and metrics call it'),
  per: z
    .union(
      [
        z.enum(['client', 'service']),
        section({ header: fieldName.describe('The field whose values are counted') }),
      ],
      wrong('key of a rate', 'write client, service or { header: X-Api-Key }'),
    )
    .describe('client (IPv6 by /64), service, or { header: NAME }'),
  limit: count(1).describe('Upgrades in a window; more are refused with 429'),
  window: wholeSeconds.describe('Whole seconds, from the first upgrade that is counted'),
  except: list(addressBlock, 'addresses and CIDR blocks').optional().describe('Clients that are not counted'),
})

export const gate = section({
  rules: list(gateRule, 'rules')
    .optional()
    .describe('In order, for upgrades; what no rule decides is allowed'),
  origins: several(pageOrigin, 'origins')
    .optional()
    .describe(
      'Pages that may connect: https://chat.example.com, https://*.example.com, "null"; default: all',
    ),
  requireOrigin: flag
    .optional()
    .describe('Refuse upgrades without Origin, which come from no browser; default false'),
  rates: list(gateRate, 'rates').optional().describe('How many upgrades in which time'),
  maxConnections: count(1).optional().describe('Of the service; more are refused with 503; default: none'),
  maxConnectionsPerClient: count(1).optional().describe('The same for each client (IPv6 by /64)'),
  expectedConnections: count(1).optional().describe('More are accepted, and somebody is told'),
})
