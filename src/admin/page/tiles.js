// The tiles: figures of all services together, each with its chart.

import { ceiling, histories, line, SECONDS_SHOWN, svg, wash } from './charts.js'
import { $, make } from './rows.js'
import { bytes, clock, count, rate } from './words.js'

const [WIDTH, HEIGHT] = [300, 60]
let pointedAt = null

const TILES = [
  { title: 'Tunnels', show: count, keys: [['open', 'open']] },
  {
    title: 'Opened and ended',
    unit: '/s',
    show: rate,
    keys: [
      ['opened', 'opened/s'],
      ['ended', 'ended/s'],
    ],
  },
  {
    title: 'Bytes per second',
    unit: '/s',
    show: bytes,
    keys: [
      ['clientToOrigin', 'to origin'],
      ['originToClient', 'to client'],
    ],
  },
  { title: 'Refused', unit: '/s', show: rate, keys: [['refused', 'requests/s']] },
].map(makeTile)

function makeTile({ title, unit = '', show, keys }) {
  const tile = make('section', 'tile')
  const heading = make('h2', 'dim', title)
  const figures = make('div', keys.length > 1 ? 'figures two' : 'figures')
  const values = keys.map(([key, label], at) => {
    const figure = make('span', 'figure')
    const value = make('span', '', '–')
    value.dataset.total = key
    const small = make('small')
    if (keys.length > 1) small.append(make('span', `key ${at === 0 ? 'first' : 'second'}`))
    small.append(label)
    figure.append(value, ...(label === '' ? [] : [small]))
    figures.append(figure)
    return value
  })
  const chart = make('div', 'chart')
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' })
  const area = svg('path', { class: 'wash' })
  const lines = keys.map((_, at) => svg('path', { class: at === 0 ? 'first' : 'second' }))
  const cursor = svg('path', { class: 'cursor' })
  drawing.append(
    svg('path', { class: 'grid', d: `M0 0H${WIDTH}M0 ${HEIGHT}H${WIDTH}` }),
    ...(keys.length > 1 ? [] : [area]),
    ...lines,
    cursor,
  )
  const top = make('span', 'top')
  const axis = make('div', 'axis')
  const from = make('span', '', '5 min ago')
  axis.append(from, make('span', '', 'now'))
  chart.append(drawing, top, axis)
  tile.append(heading, figures, chart)
  $('tiles').append(tile)
  chart.addEventListener('pointermove', ({ clientX }) => {
    const { left, width } = drawing.getBoundingClientRect()
    pointedAt = Math.min(1, Math.max(0, (clientX - left) / width))
    drawTiles()
  })
  chart.addEventListener('pointerleave', () => {
    pointedAt = null
    drawTiles()
  })
  return { title, unit, show, keys, values, drawing, area, lines, cursor, top, from }
}

export function drawTiles() {
  const points = histories.get('total') ?? []
  const latest = points.at(-1)
  if (latest === undefined) return
  const now = latest.at
  const wanted = pointedAt === null ? now : now - (1 - pointedAt) * SECONDS_SHOWN * 1000
  const shown = points.reduce(
    (best, point) => (Math.abs(point.at - wanted) < Math.abs(best.at - wanted) ? point : best),
    latest,
  )
  for (const { title, unit, show, keys, values, drawing, area, lines, cursor, top, from } of TILES) {
    const peak = Math.max(...points.map((point) => Math.max(...keys.map(([key]) => point[key]))))
    const scale = ceiling(peak)
    for (const [at, [key]] of keys.entries()) {
      values[at].textContent = show(shown[key])
      const path = line(points, key, now, scale, WIDTH, HEIGHT)
      lines[at].setAttribute('d', path)
      if (at === 0) area.setAttribute('d', wash(path, HEIGHT))
    }
    const x = WIDTH * (1 - (now - shown.at) / (SECONDS_SHOWN * 1000))
    cursor.setAttribute('d', pointedAt === null ? '' : `M${x} 0V${HEIGHT}`)
    from.textContent = pointedAt === null ? '5 min ago' : `at ${clock(shown.at)}`
    top.textContent = peak === 0 ? '' : show(scale) + unit
    drawing.setAttribute(
      'aria-label',
      `${title}, last 5 minutes: ${keys.map(([key, label]) => `${show(latest[key])} ${label}`).join(', ')}; at most ${show(peak)}${unit}`,
    )
  }
}
