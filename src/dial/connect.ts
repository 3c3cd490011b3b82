// The dial: a backend comes in, a connected and (with TLS) verified transport goes out. All addresses of a name are tried,
// staggered and in parallel (RFC 8305, Happy Eyeballs); the first that connects wins.

import { isIP } from 'node:net'
import type { ErrorCode } from '../errors.ts'
import { asHeadraceError, HeadraceError } from '../errors.ts'
import type { Loop } from '../linux/loop.ts'
import { tune } from '../linux/tuning.ts'
import type { Signal } from '../signal.ts'
import { descriptorOf, nodeTransport } from '../transport/node.ts'
import type { Transport } from '../transport/transport.ts'
import type { Attempt, Place } from './attempt.ts'
import { descriptorAttempt, nodeAttempt, suitsDescriptor } from './attempt.ts'
import type { Backend, Permits } from './backend.ts'
import { countConnection, hangUp } from './backend.ts'
import type { Lookup } from './resolve.ts'
import { addressesOf, lookupAll } from './resolve.ts'
import type { Stop } from './stop.ts'
import { createStop } from './stop.ts'
import { verified } from './verify.ts'

export interface Dialled {
  /** Paused. Whoever dialled closes it, and calls `hangUp` when it is over. */
  readonly transport: Transport
  /** What was dialled: `10.0.0.1:443`, `[::1]:443`, or the path of a Unix socket. */
  readonly address: string
}

export interface DialMeans {
  /** Where plain TCP is dialled by bare descriptors; null: by node. */
  readonly loop?: Loop | null
  readonly lookup?: Lookup
  /** What is left of somebody's time, in ms, if that is less than the backend's own limit. */
  readonly timeoutMs?: number
}

/** RFC 8305 section 5: how long an attempt stays alone, in ms. */
const ATTEMPT_DELAY_MS = 250

/**
 * Connects to a backend, and tells its health how that went. Throws backend-full, name-unresolved, address-forbidden, dial-refused, dial-reset, dial-failed,
 * dial-timeout, ports-exhausted, origin-tls-failed, certificate-rejected, or the signal's reason; nothing is left open then.
 */
export async function dial(
  backend: Backend,
  signal: Signal,
  { loop = null, lookup = lookupAll, timeoutMs = Infinity }: DialMeans = {},
): Promise<Dialled> {
  const { options, health, permits } = backend
  const { connectTimeoutMs, name } = options
  countConnection(backend, 1)
  if (permits !== null) await permitted(backend, permits)
  health.tried()
  // Its time begins here: that of who counts is no fault of the backend.
  const stop = createStop(signal, Math.min(connectTimeoutMs, timeoutMs), name)
  try {
    const dialled = await connected(backend, stop, loop, lookup)
    health.dialled()
    return dialled
  } catch (error) {
    hangUp(backend)
    // Time that the backend was not given says nothing of it.
    const isCut = stop.isStopped && timeoutMs < connectTimeoutMs
    if (!isCut) health.failed(asHeadraceError(error))
    throw error
  } finally {
    stop.release()
  }
}

async function permitted(backend: Backend, permits: Permits): Promise<void> {
  const id = permits.newId()
  try {
    await permits.take(id)
    backend.held.push(id)
  } catch (error) {
    countConnection(backend, -1)
    backend.health.failed(asHeadraceError(error))
    throw error
  }
}

async function connected(backend: Backend, stop: Stop, loop: Loop | null, lookup: Lookup): Promise<Dialled> {
  const { options, secureContext, calls } = backend
  const targets = await orStopped(targetsOf(backend, lookup), stop)
  if (loop !== null && secureContext === null && targets.every(isForDescriptor)) {
    const attempt = descriptorAttempt(loop, options)
    const { connection, target } = await connectAny(targets, options.connectTimeoutMs, stop, attempt)
    return { transport: connection, address: target.label }
  }
  const attempt = nodeAttempt(options)
  const { connection, target } = await connectAny(targets, options.connectTimeoutMs, stop, attempt)
  if (calls !== null) tune(calls, descriptorOf(connection), options)
  if (secureContext === null) return { transport: nodeTransport(connection), address: target.label }
  const secured = await verified(connection, backend, secureContext, target.label, stop)
  return { transport: nodeTransport(secured, connection), address: target.label }
}

/** One place to connect to: more than one way there if there are several local addresses. */
interface Target {
  readonly label: string
  readonly ways: readonly Place[]
}

function isForDescriptor({ ways }: Target): boolean {
  return ways.every(suitsDescriptor)
}

async function targetsOf(backend: Backend, lookup: Lookup): Promise<Target[]> {
  const { address, allowLinkLocal, localAddress } = backend.options
  if ('path' in address) return [{ label: address.path, ways: [{ path: address.path }] }]
  const { host, port } = address
  const found = await addressesOf(host, allowLinkLocal, lookup)
  const turn = backend.turns
  backend.turns += 1
  return found.map(({ address: ip, family }) => {
    const label = family === 6 ? `[${ip}]:${port}` : `${ip}:${port}`
    const place = { address: ip, port, local: undefined }
    const locals = localAddress.filter((one) => isIP(one) === family)
    if (locals.length === 0) return { label, ways: [place] }
    const start = turn % locals.length
    const inTurn = [...locals.slice(start), ...locals.slice(0, start)]
    return { label, ways: inTurn.map((local) => ({ ...place, local })) }
  })
}

interface Won<Connection> {
  readonly connection: Connection
  readonly target: Target
}

/** Tries each target, the next one after a delay or when one fails. What didn't win is given up. */
function connectAny<Connection>(
  targets: readonly Target[],
  timeoutMs: number,
  stop: Stop,
  start: Attempt<Connection>,
): Promise<Won<Connection>> {
  // Each gets its turn before the time is over, however many they are.
  const delayMs = Math.min(ATTEMPT_DELAY_MS, timeoutMs / (targets.length + 1))
  return new Promise((resolve, reject) => {
    const racing = new Set<() => void>()
    const failures: HeadraceError[] = []
    let started = 0
    let timer: NodeJS.Timeout | undefined

    function startNext(): void {
      clearTimeout(timer)
      const target = targets[started]
      if (target === undefined) return
      started += 1
      if (started < targets.length) timer = setTimeout(startNext, delayMs)
      attempt(target, 0)
    }

    function attempt(target: Target, way: number): void {
      const place = target.ways[way]
      if (place === undefined) return
      const won = (connection: Connection) => {
        racing.delete(giveUp)
        settle()
        resolve({ connection, target })
      }
      const failed = (error: NodeJS.ErrnoException) => {
        racing.delete(giveUp)
        const isLocal = error.code === 'EADDRNOTAVAIL' || error.code === 'EADDRINUSE'
        if (isLocal && way + 1 < target.ways.length) return attempt(target, way + 1)
        failures.push(troubleOf(error, target.label))
        if (failures.length < targets.length) return startNext()
        settle()
        reject(mostTelling(failures))
      }
      const giveUp = start(place, won, failed)
      racing.add(giveUp)
    }

    function stopped(reason: unknown): void {
      settle()
      reject(reason)
    }

    function settle(): void {
      clearTimeout(timer)
      stop.handler = null
      for (const giveUp of racing) giveUp()
    }

    if (stop.isStopped) return stopped(stop.reason)
    stop.handler = stopped
    startNext()
  })
}

/** Rejects as soon as it is stopped; what is waited for can't be cancelled, and isn't wanted any more. */
function orStopped<Value>(waited: Promise<Value>, stop: Stop): Promise<Value> {
  return new Promise((resolve, reject) => {
    if (stop.isStopped) return reject(stop.reason)
    stop.handler = reject
    waited.then(resolve, reject)
  })
}

const CODES: Readonly<Record<string, ErrorCode>> = {
  ECONNREFUSED: 'dial-refused',
  // A Unix socket that nobody has made.
  ENOENT: 'dial-refused',
  ECONNRESET: 'dial-reset',
  ETIMEDOUT: 'dial-timeout',
  EADDRNOTAVAIL: 'ports-exhausted',
  EADDRINUSE: 'ports-exhausted',
  EMFILE: 'ports-exhausted',
  ENFILE: 'ports-exhausted',
  ENOSPC: 'ports-exhausted',
}

function troubleOf(error: NodeJS.ErrnoException, label: string): HeadraceError {
  const { code = 'error' } = error
  return new HeadraceError(CODES[code] ?? 'dial-failed', `${code} ${label}`, error)
}

/** The first failure, with the details of all. */
function mostTelling(failures: readonly HeadraceError[]): HeadraceError {
  const [first] = failures
  if (first === undefined) return new HeadraceError('dial-failed', 'no address to try')
  const details = [...new Set(failures.map(({ detail }) => detail))].join(', ')
  return new HeadraceError(first.code, details, first.cause)
}
