// Why a tunnel or request is over. One closed list; the same word stands in logs, events, the API and the README.

/** Who ended it: the client, the origin, Headrace itself, or whoever operates it. */
export type Who = 'client' | 'origin' | 'edge' | 'operator'

/** How: an orderly FIN, a RST, a time limit, a rule or a full house, or anything else. */
export type How = 'fin' | 'reset' | 'timeout' | 'refused' | 'error'

/** How far the connection had come. */
export type Phase = 'accept' | 'tls' | 'head' | 'gate' | 'decide' | 'dial' | 'answer' | 'tunnel'

/** For example `origin-reset-tunnel` or `client-timeout-head`. */
export type End = `${Who}-${How}-${Phase}`

export function endName(who: Who, how: How, phase: Phase): End {
  return `${who}-${how}-${phase}`
}
