// Numbers as people read them.

const whole = new Intl.NumberFormat('en')
export const count = (value) => whole.format(value)
export const rate = (value) =>
  value < 10 ? value.toFixed(1).replace(/\.0$/, '') : whole.format(Math.round(value))
export const millions = (value) => value.toFixed(value < 1 ? 6 : 3)

export function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let at = 0
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1000
    at += 1
  }
  return `${at === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[at]}`
}

export function duration(ms) {
  const seconds = Math.floor(ms / 1000)
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ]
  if (days > 0) return `${days} d ${hours} h`
  if (hours > 0) return `${hours} h ${minutes} min`
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`
}

export const setUp = (ms) =>
  ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10_000 ? `${whole.format(Math.round(ms))} ms` : duration(ms)
export const clock = (at) => new Date(at).toLocaleTimeString('en-GB')
