// The tables: services and backends, tunnels, refusals, workers, usage.

import { drawSpark, histories, sparkline } from './charts.js'
import { $, keep, make, makeRow, put } from './rows.js'
import { askSwitch } from './switch.js'
import { bytes, clock, count, duration, millions, rate, setUp } from './words.js'

const FLOW = [
  ['Open', 'number'],
  ['Last 5 min', 'number history'],
  ['Opened/s', 'number'],
  ['Ended/s', 'number'],
  ['Refused/s', 'number'],
  ['To origin', 'number'],
  ['To client', 'number'],
]

function putFlow(row, from, key, flow, now) {
  const cells = row.children
  put(cells[from], count(flow.open), flow.open === 0)
  if (cells[from + 1].firstChild === null) cells[from + 1].append(sparkline())
  drawSpark(cells[from + 1].firstChild, histories.get(key) ?? [], now)
  for (const [at, name] of ['opened', 'ended', 'refused'].entries())
    put(cells[from + 2 + at], rate(flow[name]), flow[name] === 0)
  for (const [at, name] of ['clientToOrigin', 'originToClient'].entries())
    put(cells[from + 5 + at], `${bytes(flow[name])}/s`, flow[name] === 0)
}

const SITE = [['', 'name'], ['', 'wide'], ...FLOW, ['', 'wide']]

export function showSites({ at, services, backends }) {
  const rows = services.flatMap((service) => [
    { kind: 'service', key: `service ${service.id}`, ...service },
    ...backends
      .filter((one) => one.service === service.id)
      .map((one) => ({ kind: 'backend', key: `backend ${service.id} ${one.name}`, ...one })),
  ])
  keep(
    $('services'),
    rows,
    ({ key }) => key,
    makeSite,
    (row, site) => {
      putFlow(row, 2, site.key, site.flow, at)
      if (site.kind === 'service') updateService(row, site)
      else updateBackend(row, site)
    },
  )
}

function makeSite({ kind, id, name }) {
  const row = makeRow(SITE, kind)
  row.firstChild.append(kind === 'service' ? id : name)
  if (kind !== 'service') {
    row.firstChild.className = ''
    return row
  }
  const act = make('div', 'act')
  const button = make('button', '')
  button.type = 'button'
  button.addEventListener('click', () => askSwitch(id))
  act.append(make('span', 'pill'), button)
  row.lastChild.append(act)
  return row
}

function updateService(row, { id, domains, websockets, spike }) {
  const [pill, button] = row.lastChild.firstChild.children
  pill.textContent = websockets
  pill.className = `pill ${websockets}`
  button.textContent = websockets === 'on' ? 'Switch off…' : 'Switch on…'
  button.setAttribute('aria-label', `switch WebSockets of ${id} ${websockets === 'on' ? 'off' : 'on'}`)
  const cell = row.children[1]
  if (cell.firstChild === null) cell.append(make('span', 'dim'), make('span'))
  cell.firstChild.textContent = domains.join(', ')
  cell.lastChild.textContent = spike === null ? '' : ` · ${spikeText(spike)}`
  cell.lastChild.className = spike?.isAbove ? 'spike' : 'dim'
}

function spikeText({ isAbove, connections, expected, spikes }) {
  if (isAbove) return `spike: ${count(connections)} connections, ${count(expected)} expected`
  const times = spikes === 0 ? '' : `, exceeded ${spikes === 1 ? 'once' : `${count(spikes)} times`}`
  return `${count(expected)} expected${times}`
}

/** Nobody knows how a backend does that is not checked and in no director. */
function updateBackend(row, { address, health, reason, checks, directors }) {
  const isKnown = directors.length > 0 || checks.passed + checks.failed > 0
  const cell = row.children[1]
  if (cell.firstChild === null) cell.append(make('span', 'dot'), ' ', make('span'), ' ', make('span', 'dim'))
  const [dot, word, where] = cell.children
  dot.hidden = word.hidden = !isKnown
  dot.className = `dot ${health === 'healthy' ? 'good' : 'bad'}`
  word.textContent = health === 'unhealthy' ? `unhealthy: ${reason}` : health
  word.className = health === 'unhealthy' ? 'error' : ''
  where.textContent = address
}

const TUNNEL = [
  ['', 'code nowrap'],
  ['Service'],
  ['Backend'],
  ['Client', 'half'],
  ['Origin', 'nowrap minor'],
  ['Engine', 'minor'],
  ['Set-up', 'number'],
  ['Open for', 'number'],
  ['To origin', 'number'],
  ['To client', 'number'],
]

export function showTunnels({ notable }) {
  const chosen = document.querySelector('#order :checked').value
  const tunnels = notable[chosen]
  $('no-tunnels').hidden = tunnels.length > 0
  $('tunnels-table').hidden = tunnels.length === 0
  keep(
    $('tunnels'),
    tunnels,
    ({ id }) => id,
    () => makeRow(TUNNEL),
    (row, tunnel) => {
      const { id, service, backend, client, origin, engine, setUpMs, durationMs, bytes: moved } = tunnel
      const { clientToOrigin, originToClient } = moved
      const texts = [
        id,
        service,
        backend,
        client || 'unix',
        origin,
        engine,
        setUp(setUpMs),
        duration(durationMs),
        bytes(clientToOrigin),
        bytes(originToClient),
      ]
      for (const [at, text] of texts.entries()) put(row.children[at], text)
      row.children[8].classList.toggle('zero', clientToOrigin === 0)
      row.children[9].classList.toggle('zero', originToClient === 0)
    },
  )
}

const REFUSAL = [
  ['', 'nowrap dim beside'],
  ['', 'number'],
  ['', 'code nowrap half'],
  ['Service'],
  ['Backend'],
  ['Client', 'half'],
  ['Rule', 'nowrap half'],
  ['', 'cut wide'],
]

export function showRefusals({ refusals }) {
  $('no-refusals').hidden = refusals.length > 0
  $('refusals-scroll').hidden = refusals.length === 0
  keep(
    $('refusals'),
    refusals,
    ({ id, at }) => `${id} ${at}`,
    () => makeRow(REFUSAL),
    (row, refusal) => {
      const { at, status, code, service, backend, client, rule, path, detail } = refusal
      const what = [path, detail].filter((text) => text !== '').join(' · ')
      for (const [index, text] of [
        clock(at),
        String(status ?? '–'),
        code,
        service,
        backend,
        client,
        rule,
        what,
      ].entries())
        put(row.children[index], text)
      row.children[1].classList.toggle('error', status !== null && status >= 500)
      row.lastChild.title = what
    },
  )
}

const WORKER = [
  ['', 'nowrap'],
  ['State', 'nowrap'],
  ['Pid', 'number'],
  ['Replaced', 'number'],
  ['Late, mean', 'number'],
  ['Late, max', 'number'],
  ['Open', 'number'],
]

/** An event loop that is so late is felt by tunnels that are not the kernel's, in seconds. */
const FELT = 0.1

export function showWorkers({ workers }) {
  keep(
    $('workers'),
    workers,
    ({ name }) => name,
    () => makeRow(WORKER),
    (row, { name, state, pid, restarts, open, eventLoop }) => {
      const cell = row.children[1]
      if (cell.firstChild === null) cell.append(make('span', 'dot'), ' ', make('span'))
      cell.firstChild.className = `dot ${state === 'running' ? 'good' : 'bad'}`
      cell.lastChild.textContent = state
      put(row.children[0], name)
      put(row.children[2], pid === null ? '–' : String(pid))
      put(row.children[3], count(restarts), restarts === 0)
      put(row.children[4], late(eventLoop?.mean))
      put(row.children[5], late(eventLoop?.max))
      row.children[5].classList.toggle('error', eventLoop?.max > FELT)
      put(row.children[6], count(open), open === 0)
    },
  )
  const running = workers.filter(({ state }) => state === 'running').length
  $('workers-state').textContent = `${running} of ${workers.length} workers`
  $('workers-state').classList.toggle('error', running < workers.length)
}

const late = (seconds) => (seconds === undefined ? '–' : setUp(seconds * 1_000))

const USAGE = [
  ['', ''],
  ['Connections', 'number'],
  ['Minutes', 'number'],
  ['Millions', 'number'],
  ['To origin', 'number'],
  ['To client', 'number'],
]

export function showUsage({ month, services, total, troubles }) {
  const name = new Date(`${month}-01T00:00:00Z`).toLocaleDateString('en', {
    month: 'long',
    year: 'numeric',
    timeZone: 'UTC',
  })
  $('usage-title').textContent = `Usage in ${name} (UTC)`
  $('usage-section').hidden = false
  const update = (row, { service = 'all', connections, minutes, minutesInMillions, bytes: moved }) => {
    const toOrigin = moved.clientToOrigin + moved.headToOrigin
    const toClient = moved.originToClient + moved.headToClient
    const texts = [
      service,
      count(connections),
      count(minutes),
      millions(minutesInMillions),
      bytes(toOrigin),
      bytes(toClient),
    ]
    for (const [at, text] of texts.entries()) put(row.children[at], text)
  }
  keep(
    $('usage'),
    services,
    ({ service }) => service,
    () => makeRow(USAGE),
    update,
  )
  keep(
    $('usage-total'),
    services.length > 1 ? [total] : [],
    () => 'total',
    () => makeRow(USAGE),
    update,
  )
  $('usage-troubles').hidden = troubles.length === 0
  $('usage-troubles').textContent = troubles.join('; ')
}
