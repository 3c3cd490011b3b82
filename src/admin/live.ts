// Whoever watches: one look a second for all viewers together, sent as server-sent events, and none while nobody watches.
//
//   event: pulse       each second, a Pulse
//   event: refusals    the last refusals, at the start and whenever there are new ones
//   event: trouble     instead of a pulse, why there is none

import type { ServerResponse } from 'node:http'
import { asHeadraceError } from '../errors.ts'
import type { Operations, ProgramStatus } from '../operations.ts'
import type { Look } from './pulse.ts'
import { pulseOf, refusalsOf } from './pulse.ts'

export interface Live {
  readonly isFull: boolean
  /** Owns the response from now on. `mayStay` is asked before each event. */
  watch(response: ServerResponse, mayStay: () => boolean): void
  close(): void
}

const INTERVAL_MS = 1_000
const MAX_VIEWERS = 32

/** Some twenty events, besides what the system holds: a viewer that has not read them is not looking. */
const MAX_UNREAD_BYTES = 262_144

type Watched = Pick<Operations, 'services' | 'backends' | 'gates' | 'activity'> & ProgramStatus

interface Viewer {
  readonly response: ServerResponse
  readonly mayStay: () => boolean
}

export function createLive(operations: Watched): Live {
  const viewers = new Set<Viewer>()
  let timer: NodeJS.Timeout | undefined
  let isLooking = false
  let before: Look | null = null
  /** What was sent last. */
  let refusals = ''
  let pulse = ''

  async function look(): Promise<Look> {
    const [status, services, backends, gates, activity] = await Promise.all([
      operations.status(),
      operations.services(),
      operations.backends(),
      operations.gates(),
      operations.activity(),
    ])
    return { status, services, backends, gates, activity }
  }

  async function beat(): Promise<void> {
    // One that takes longer than a second is not overtaken.
    if (isLooking) return
    isLooking = true
    try {
      const now = await look()
      // Everybody has left meanwhile.
      if (viewers.size === 0) return
      const latest = eventOf('refusals', { refusals: refusalsOf(now.activity) })
      if (latest !== refusals) tell(latest)
      refusals = latest
      pulse = eventOf('pulse', pulseOf(Date.now(), now, before))
      tell(pulse)
      before = now
    } catch (error) {
      tell(eventOf('trouble', { detail: asHeadraceError(error).message }))
    } finally {
      isLooking = false
    }
  }

  function tell(event: string): void {
    for (const viewer of viewers) {
      const { response, mayStay } = viewer
      if (!mayStay() || response.writableLength > MAX_UNREAD_BYTES) response.destroy()
      else response.write(event)
    }
  }

  function leave(viewer: Viewer): void {
    viewers.delete(viewer)
    if (viewers.size > 0) return
    clearInterval(timer)
    // Rates over the time in which nobody looked would say nothing.
    before = null
    refusals = ''
    pulse = ''
  }

  return {
    get isFull() {
      return viewers.size >= MAX_VIEWERS
    },
    watch(response, mayStay) {
      if (response.destroyed || viewers.size >= MAX_VIEWERS) return void response.destroy()
      const viewer = { response, mayStay }
      response.on('close', () => leave(viewer))
      // Of a viewer that resets, its close tells.
      response.on('error', () => {})
      viewers.add(viewer)
      response.write(refusals + pulse)
      if (viewers.size > 1) return
      timer = setInterval(() => void beat(), INTERVAL_MS)
      void beat()
    },
    close() {
      for (const { response } of viewers) response.destroy()
    },
  }
}

function eventOf(name: string, data: object): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
}
