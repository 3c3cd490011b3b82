// Kubernetes manifests against the API's own schemas, as its server reads them when it is strict: what no schema has a word
// for is wrong, too.

import { readFileSync } from 'node:fs'
import * as monitoring from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1'
import * as apps from 'kubernetes-models/apps/v1'
import * as autoscaling from 'kubernetes-models/autoscaling/v2'
import * as policy from 'kubernetes-models/policy/v1'
import * as core from 'kubernetes-models/v1'
import { parseAllDocuments } from 'yaml'

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> }
  readonly [section: string]: unknown
}

interface Model {
  /** Throws what the schema does not allow. */
  validate(): void
}

const KINDS: Readonly<Record<string, new (manifest: never) => Model>> = {
  'apps/v1 StatefulSet': apps.StatefulSet,
  'autoscaling/v2 HorizontalPodAutoscaler': autoscaling.HorizontalPodAutoscaler,
  'monitoring.coreos.com/v1 PrometheusRule': monitoring.PrometheusRule,
  'monitoring.coreos.com/v1 ServiceMonitor': monitoring.ServiceMonitor,
  'policy/v1 PodDisruptionBudget': policy.PodDisruptionBudget,
  'v1 ConfigMap': core.ConfigMap,
  'v1 Service': core.Service,
}

export function manifestsIn(text: string): Manifest[] {
  return parseAllDocuments(text).map((document) => {
    if (document.errors.length > 0) throw document.errors[0]
    return document.toJS() as Manifest
  })
}

export function manifestsOf(file: string): Manifest[] {
  return manifestsIn(readFileSync(file, 'utf8'))
}

/** What is wrong with it; empty if nothing is. */
export function problemsOf(manifest: Manifest): string[] {
  const kind = `${manifest.apiVersion} ${manifest.kind}`
  const Kind = KINDS[kind]
  if (Kind === undefined) return [`${kind}: no schema`]
  const unread: (() => string[])[] = []
  const model = watched(
    new Kind(structuredClone(manifest) as never),
    `${kind} ${manifest.metadata.name}: `,
    unread,
  )
  try {
    model.validate()
  } catch (error) {
    return [`${kind} ${manifest.metadata.name}: ${(error as Error).message}`]
  }
  return unread.flatMap((list) => list())
}

/**
 * The schemas are compiled, and say nothing of keys that they don't know: those are the ones that they never looked at.
 * `unread` gets one function for each object, to be called after the validation.
 */
function watched<Value>(value: Value, path: string, unread: (() => string[])[]): Value {
  if (typeof value !== 'object' || value === null) return value
  const fields = value as Record<string, unknown>
  const read = new Set<string | symbol>()
  for (const key of Object.keys(fields)) fields[key] = watched(fields[key], `${path}/${key}`, unread)
  unread.push(() =>
    Object.keys(fields)
      .filter((key) => !read.has(key))
      .map((key) => `${path}/${key} is unknown`),
  )
  return new Proxy(value, {
    get(target, key, receiver) {
      read.add(key)
      return Reflect.get(target, key, receiver)
    },
  })
}
