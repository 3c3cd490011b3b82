// What Prometheus reads, read as it does: one sample a line.

export interface Exposition {
  /** Of all series of this name that have these labels, the sum; undefined if there is none. */
  value(name: string, labels?: Readonly<Record<string, string>>): number | undefined
  /** The names that are declared, with their types. */
  readonly types: ReadonlyMap<string, string>
  /** The values by `name{label="value"}`. */
  readonly series: ReadonlyMap<string, number>
}

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Throws at a line that is neither a comment nor a sample, and at a series that comes twice. */
export function readExposition(text: string): Exposition {
  const types = new Map<string, string>()
  const samples: Sample[] = []
  const series = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [, name = '', type = ''] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? []
    if (name !== '') types.set(name, type)
    if (line === '' || line.startsWith('#')) continue
    const sample = sampleOf(line)
    const id = line.slice(0, line.lastIndexOf(' '))
    if (series.has(id)) throw new Error(`twice: ${id}`)
    series.set(id, sample.value)
    samples.push(sample)
  }
  return {
    types,
    series,
    value(name, labels = {}) {
      const wanted = Object.entries(labels)
      const found = samples.filter(
        (one) => one.name === name && wanted.every(([label, value]) => one.labels[label] === value),
      )
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0)
    },
  }
}

function sampleOf(line: string): Sample {
  const [, name, inside = '', value] =
    /^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$/.exec(line) ?? []
  if (name === undefined || Number.isNaN(Number(value?.replace('+Inf', 'Infinity')))) {
    throw new Error(`no sample: ${line}`)
  }
  const labels = [...inside.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, text]) => [
    label,
    text,
  ])
  return { name, labels: Object.fromEntries(labels) as Record<string, string>, value: Number(value) }
}
