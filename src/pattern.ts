// The patterns that people write in a config: for paths, and for values.

/** The regular expression of a path pattern. Segments can't contain `/`, so that it never backtracks across them. */
export function pathPattern(pattern: string): RegExp {
  const segments = pattern.split('/')
  const source = segments.map((segment, at) => {
    if (segment === '*' && at === segments.length - 1) return '.*'
    if (segment.startsWith(':')) return '[^/]+'
    return segment.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  })
  return new RegExp(`^${source.join('/')}$`, 's')
}

/**
 * Whether a text is of a form such as `1.*` or `*bot*`, in which a star stands for anything; in any letter case. No
 * regular expression: one with several stars takes a time that grows with a power of the length of the text, which is
 * a stranger's.
 */
export function valuePattern(pattern: string): (text: string) => boolean {
  const [first = '', ...rest] = pattern.toLowerCase().split('*')
  const last = rest.pop()
  if (last === undefined) return (text) => text.toLowerCase() === first
  return (text) => hasParts(text.toLowerCase(), first, rest, last)
}

function hasParts(text: string, first: string, middle: readonly string[], last: string): boolean {
  const end = text.length - last.length
  if (end < first.length || !text.startsWith(first) || !text.endsWith(last)) return false
  let at = first.length
  for (const part of middle) {
    const found = text.indexOf(part, at)
    if (found === -1) return false
    at = found + part.length
  }
  return at <= end
}
