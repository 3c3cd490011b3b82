// The page: what the edge tells is remembered and shown, and the controls do what they say.

import { remember } from './charts.js'
import { begin, credentials, edge, isStale, keepToken, watch } from './edge.js'
import { $ } from './rows.js'
import { showRefusals, showSites, showTunnels, showUsage, showWorkers } from './tables.js'
import { drawTiles } from './tiles.js'
import { count } from './words.js'

const USAGE_INTERVAL_MS = 60_000

function pulsed({ at, total, services, backends }) {
  remember('total', at, total)
  for (const { id, flow } of services) remember(`service ${id}`, at, flow)
  for (const { service, name, flow } of backends) remember(`backend ${service} ${name}`, at, flow)
  if (!document.hidden) show()
}

function show() {
  const { pulse } = edge
  if (pulse === null) return
  drawTiles()
  showSites(pulse)
  showTunnels(pulse)
  showWorkers(pulse)
  document.title = `${count(pulse.total.open)} open · Headrace`
}

async function fetchUsage() {
  try {
    const response = await fetch('/usage', { headers: credentials(edge.token), cache: 'no-store' })
    if (response.ok) showUsage(await response.json())
  } catch {
    // The stream tells that the edge is away.
  }
}

$('notice-form').addEventListener('submit', (event) => {
  event.preventDefault()
  begin($('notice-form').elements.token.value.trim())
  $('notice-form').reset()
})
$('token-button').addEventListener('click', () => {
  $('token-form').reset()
  $('token-dialog').showModal()
})
$('token-back').addEventListener('click', () => $('token-dialog').close())
$('token-forget').addEventListener('click', () => {
  begin('')
  $('token-dialog').close()
})
$('token-form').addEventListener('submit', () => {
  const value = $('token-form').elements.token.value.trim()
  if (value !== '') begin(value)
})
$('order').addEventListener('change', show)
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) show()
})

$('place').textContent = location.host
keepToken(edge.token)
setInterval(() => {
  if (!isStale()) void fetchUsage()
}, USAGE_INTERVAL_MS)
void watch({ begun: fetchUsage, refusals: showRefusals, pulse: pulsed })
