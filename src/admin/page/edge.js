// The edge, as it tells of itself: server-sent events, read until somebody ends them, and begun again.

import { $ } from './rows.js'

/** `pulse`: the last one, null before the first. */
export const edge = { token: sessionStorage.getItem('headrace-token') ?? '', pulse: null }

const SILENCE_MS = 6_000
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 10_000

let reading = new AbortController()
let waitMs = FIRST_WAIT_MS
let cutWait = () => {}

/** `heard` has a function for each kind of event, and one for when it begins. */
export async function watch(heard) {
  for (;;) {
    try {
      await read(heard)
      say('bad', 'reconnecting…')
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) {
        say('', 'a token is needed')
        notice(
          edge.token === '' ? 'Who looks here needs a token.' : `The token was not taken: ${error.message}.`,
          true,
        )
        await new Promise((resolve) => {
          cutWait = resolve
        })
        continue
      }
      say('bad', 'reconnecting…')
      if (error instanceof Refusal) notice(`${error.message}.`, false)
    }
    const pause = waitMs * (0.75 + Math.random() / 2)
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS)
    await new Promise((resolve) => {
      cutWait = resolve
      setTimeout(resolve, pause)
    })
  }
}

/** Looks with this token from now on. */
export function begin(token) {
  keepToken(token)
  waitMs = FIRST_WAIT_MS
  reading.abort()
  cutWait()
}

export function keepToken(value) {
  edge.token = value
  if (value === '') sessionStorage.removeItem('headrace-token')
  else sessionStorage.setItem('headrace-token', value)
  $('token-button').textContent = value === '' ? 'Token…' : 'Token ✓'
}

export const credentials = (token) => (token === '' ? {} : { Authorization: `Bearer ${token}` })

export async function reasonOf(response) {
  const problem = await response.json().catch(() => null)
  return problem?.detail ?? `the edge answered ${response.status}`
}

export const isStale = () => document.body.classList.contains('is-stale')

/** Resolves when the edge ends it; rejects with what is to be said if it may not begin. */
async function read(heard) {
  reading = new AbortController()
  const headers = credentials(edge.token)
  let silence = setTimeout(() => reading.abort(), SILENCE_MS)
  try {
    const response = await fetch('/events', { headers, signal: reading.signal, cache: 'no-store' })
    if (!response.ok) throw new Refusal(response.status, await reasonOf(response))
    notice('', false)
    heard.begun()
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      clearTimeout(silence)
      silence = setTimeout(() => reading.abort(), SILENCE_MS)
      const events = (text + value).split('\n\n')
      text = events.pop()
      for (const event of events) hear(event, heard)
    }
  } finally {
    clearTimeout(silence)
  }
}

class Refusal extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

function hear(event, heard) {
  const [, name, data] = /^event: (\w+)\ndata: (.*)$/.exec(event) ?? []
  if (name === undefined) return
  const message = JSON.parse(data)
  if (name === 'refusals') heard.refusals(message)
  if (name === 'trouble') say('bad', message.detail)
  if (name !== 'pulse') return
  edge.pulse = message
  waitMs = FIRST_WAIT_MS
  say(message.isDraining ? 'warn' : 'good', message.isDraining ? 'draining' : 'live')
  heard.pulse(message)
}

function say(kind, text) {
  $('state').className = `state ${kind}`
  if ($('state-text').textContent !== text) $('state-text').textContent = text
  document.body.classList.toggle('is-stale', kind === 'bad' || kind === '')
}

function notice(text, needsToken) {
  $('notice').hidden = text === ''
  $('notice').classList.toggle('bad', !needsToken)
  $('notice-form').hidden = !needsToken
  if ($('notice-text').textContent !== text) $('notice-text').textContent = text
}
