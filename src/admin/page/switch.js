// The switch: asked, asked again if tunnels end by it, and sent.

import { begin, credentials, edge, reasonOf } from './edge.js'
import { $ } from './rows.js'
import { clock, count } from './words.js'

const switching = { id: '', value: 'on', isSure: false }

export function askSwitch(id) {
  const { websockets, flow } = edge.pulse.services.find((one) => one.id === id)
  Object.assign(switching, { id, value: websockets === 'on' ? 'off' : 'on', isSure: false })
  $('switch-form').reset()
  $('close-text').textContent = `Also end the open tunnels (${count(flow.open)} now)`
  $('switch-token-field').querySelector('input').placeholder =
    edge.token === '' ? '' : 'leave empty to use the token of this tab'
  showSwitch('')
  $('switch-dialog').showModal()
}

function showSwitch(error) {
  const { id, value, isSure } = switching
  const open = edge.pulse.services.find((one) => one.id === id)?.flow.open ?? 0
  const tunnels = `${count(open)} open ${open === 1 ? 'tunnel' : 'tunnels'}`
  $('switch-title').textContent = isSure
    ? `End ${tunnels} of ${id}?`
    : `Switch WebSockets ${value} for ${id}?`
  $('switch-text').textContent = isSure
    ? 'Their clients are disconnected now, and can’t come back until WebSockets are switched on again.'
    : value === 'on'
      ? 'New WebSockets are accepted at once, on every worker.'
      : 'New WebSockets are refused at once, on every worker. Open tunnels live on, unless you end them.'
  $('close-field').hidden = isSure || value === 'on'
  $('switch-token-field').hidden = isSure
  $('switch-back').textContent = isSure ? 'Back' : 'Cancel'
  $('switch-go').textContent = isSure ? `Switch off and end ${tunnels}` : `Switch ${value}`
  $('switch-go').className = isSure ? 'danger' : 'main'
  $('switch-error').textContent = error
}

async function sendSwitch(given) {
  const { id, value } = switching
  const closeTunnels = value === 'off' && $('switch-form').elements.closeTunnels.checked
  const response = await fetch(`/services/${encodeURIComponent(id)}`, {
    method: 'PATCH',
    headers: { 'Content-Type': 'application/json', ...credentials(given) },
    body: JSON.stringify({ websockets: value, closeTunnels }),
  }).catch(() => null)
  if (response === null) return 'The edge can’t be reached.'
  if (!response.ok) return `${await reasonOf(response)}.`
  const { ended } = await response.json()
  const tunnels =
    ended > 0 ? `; ${count(ended)} ${ended === 1 ? 'tunnel is' : 'tunnels are'} being ended` : ''
  $('done').textContent = `${clock(Date.now())}: WebSockets are ${value} for ${id}${tunnels}`
  if (given !== edge.token) begin(given)
  return ''
}

$('switch-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const { closeTunnels, token: field } = $('switch-form').elements
  if (closeTunnels.checked && switching.value === 'off' && !switching.isSure) {
    switching.isSure = true
    showSwitch('')
    return $('switch-back').focus()
  }
  $('switch-go').disabled = true
  const error = await sendSwitch(field.value.trim() || edge.token)
  $('switch-go').disabled = false
  if (error === '') return $('switch-dialog').close()
  switching.isSure = false
  showSwitch(error)
  field.focus()
})

$('switch-back').addEventListener('click', () => {
  if (!switching.isSure) return $('switch-dialog').close()
  switching.isSure = false
  showSwitch('')
})
