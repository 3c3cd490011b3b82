// A chart as SVG text, by echarts without a browser: lines over the number of tunnels, one for each proxy.

import * as echarts from 'echarts'

export interface Chart {
  readonly title: string
  readonly unit: string
  /** Numbers of tunnels. */
  readonly counts: readonly number[]
  readonly lines: readonly Line[]
}

export interface Line {
  readonly name: string
  /** One for each of the counts; null: not measured. */
  readonly values: readonly (number | null)[]
}

const SIZE = { width: 760, height: 400 }

/** The same proxy has the same colour in every chart. */
const COLOURS: Readonly<Record<string, string>> = {
  headrace: '#0b6fb8',
  haproxy: '#d1495b',
  nginx: '#2e933c',
  'http-proxy-3': '#e08e1b',
  direct: '#808080',
  'headrace-stream': '#6db3e0',
  'headrace-sockmap': '#6a4c93',
}

export function svgOf({ title, unit, counts, lines }: Chart): string {
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, ...SIZE })
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: { text: title, left: 'center', textStyle: { fontSize: 15 } },
    legend: { bottom: 0 },
    grid: { left: 60, right: 30, top: 50, bottom: 80 },
    xAxis: {
      type: 'category',
      name: 'tunnels',
      nameLocation: 'middle',
      nameGap: 28,
      data: counts.map((count) => count.toLocaleString('en')),
    },
    yAxis: { type: 'value', name: unit, min: 0 },
    series: lines.map(({ name, values }) => ({
      name,
      type: 'line',
      data: [...values],
      symbol: 'circle',
      symbolSize: 7,
      itemStyle: { color: COLOURS[name] ?? '#444444' },
      lineStyle: { width: name === 'headrace' ? 3 : 2, type: name === 'direct' ? 'dashed' : 'solid' },
    })),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}
