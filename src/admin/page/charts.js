// What was seen in the last five minutes, and its lines.

export const SECONDS_SHOWN = 300

export const histories = new Map()

export function remember(key, at, flow) {
  const points = histories.get(key) ?? []
  histories.set(key, points)
  points.push({ at, ...flow })
  while (points.length > 0 && points[0].at < at - SECONDS_SHOWN * 1000) points.shift()
}

export const svg = (name, attributes = {}) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  return element
}

/** The lowest 1, 2 or 5 × 10ⁿ that is not below. */
export function ceiling(value) {
  if (value <= 0) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].find((one) => one * power >= value * 0.999) * power
}

/** A line breaks where nothing was seen for some seconds. */
export function line(points, key, now, top, width, height) {
  let path = ''
  let last = -Infinity
  for (const point of points) {
    const x = width * (1 - (now - point.at) / (SECONDS_SHOWN * 1000))
    const y = height * (1 - point[key] / top)
    path += `${point.at - last > 4000 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`
    last = point.at
  }
  return path
}

/** What is below the line: one closed shape for each unbroken piece. */
export function wash(path, height) {
  return path
    .split('M')
    .filter(Boolean)
    .map((piece) => {
      const spots = piece.split('L')
      return `M${spots[0].split(' ')[0]} ${height}L${piece}L${spots.at(-1).split(' ')[0]} ${height}Z`
    })
    .join('')
}

export function sparkline() {
  const drawing = svg('svg', {
    class: 'spark',
    viewBox: '0 0 88 20',
    preserveAspectRatio: 'none',
    'aria-hidden': 'true',
  })
  drawing.append(svg('path', { class: 'wash' }), svg('path', { class: 'first' }))
  return drawing
}

export function drawSpark(drawing, points, now) {
  const top = Math.max(1, ...points.map(({ open }) => open))
  const path = line(points, 'open', now, top, 88, 19)
  drawing.children[0].setAttribute('d', wash(path, 20))
  drawing.children[1].setAttribute('d', path)
}
