// Signals that ask a program to stop.

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

/** Until what is returned is called, they do nothing. */
export function ignoreSignals(): () => void {
  const ignore = () => {}
  process.on('SIGTERM', ignore)
  process.on('SIGINT', ignore)
  return () => {
    process.off('SIGTERM', ignore)
    process.off('SIGINT', ignore)
  }
}
