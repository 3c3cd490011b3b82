// Parts of a config as it was written, before anybody has said that they have the right shape.

import type { Complain, Path } from './problems.ts'

export type Part = Readonly<Record<string, unknown>>

export function part(value: unknown): Part {
  return typeof value === 'object' && value !== null ? (value as Part) : {}
}

export function parts(value: unknown): Part[] {
  return Array.isArray(value) ? value.map(part) : []
}

export function unique(
  items: readonly Part[],
  key: string,
  path: Path,
  complain: Complain,
  counts: (value: string) => boolean = () => true,
): void {
  const seen = new Set<string>()
  for (const [at, item] of items.entries()) {
    const value = item[key]
    if (typeof value !== 'string' || !counts(value)) continue
    if (seen.has(value)) complain([...path, at, key], `${value} is there twice`, `give each its own ${key}`)
    seen.add(value)
  }
}
