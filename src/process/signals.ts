// Signals that ask a program to stop, or to read its config again.

import { constants } from 'node:os'

/** Resolves with the next one. */
export function signal(): Promise<void> {
  return new Promise((resolve) => {
    const heard = () => {
      process.off('SIGTERM', heard)
      process.off('SIGINT', heard)
      resolve()
    }
    process.on('SIGTERM', heard)
    process.on('SIGINT', heard)
  })
}

/**
 * Resolve with the first and the second one, however close they are. From now on none ends the process by itself: between two
 * listeners there would be a moment in which it did.
 */
export function twoSignals(): { readonly first: Promise<void>; readonly second: Promise<void> } {
  let resolveFirst = () => {}
  let resolveSecond = () => {}
  const first = new Promise<void>((resolve) => {
    resolveFirst = resolve
  })
  const second = new Promise<void>((resolve) => {
    resolveSecond = resolve
  })
  let count = 0
  const heard = () => {
    count += 1
    if (count === 1) resolveFirst()
    else resolveSecond()
  }
  process.on('SIGTERM', heard)
  process.on('SIGINT', heard)
  return { first, second }
}

/** Whenever it comes. A terminal that is closed sends it, too: then the program goes on. */
export function onHangup(act: () => void): void {
  process.on('SIGHUP', act)
}

/** Until what is returned is called, they do nothing. */
export function ignoreSignals(): () => void {
  const ignore = () => {}
  process.on('SIGHUP', ignore)
  process.on('SIGTERM', ignore)
  process.on('SIGINT', ignore)
  return () => {
    process.off('SIGTERM', ignore)
    process.off('SIGINT', ignore)
  }
}

/** Each time that it comes. */
export function signalled(name: NodeJS.Signals, heard: () => void): void {
  process.on(name, heard)
}

/**
 * While a program starts, a signal ends it. The first process of a container is asked to say so: what it does not listen
 * for, it never gets (pid_namespaces(7)). Call what is returned when it has started.
 */
export function exitOnSignals(): () => void {
  if (process.pid !== 1) return () => {}
  const exit = () => process.exit(128 + constants.signals.SIGTERM)
  process.on('SIGTERM', exit)
  process.on('SIGINT', exit)
  return () => {
    process.off('SIGTERM', exit)
    process.off('SIGINT', exit)
  }
}
