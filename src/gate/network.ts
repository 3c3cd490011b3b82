// What counts as one client: an IPv4 address, or the /64 of an IPv6 address. A household or a server has at least that
// many IPv6 addresses (RFC 6177), so that a count by single ones would be none.

const GROUPS = 8
const NETWORK_GROUPS = 4

/** `203.0.113.7`, or `2001:db8:0:1::/64` without its zone; '' for a client that has no address. */
export function clientNetwork(address: string): string {
  if (!address.includes(':')) return address
  const [head = '', tail] = address.split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) while (groups.length < GROUPS - countOf(tail)) groups.push('0')
  const network = groups.slice(0, NETWORK_GROUPS).map((group) => Number.parseInt(group, 16).toString(16))
  // What is behind the `::` may begin in the first half.
  if (network.length < NETWORK_GROUPS && tail !== undefined) network.push(...startOf(tail, network.length))
  return `${network.join(':')}::/64`
}

/** An IPv4 address at the end stands for two groups. */
function countOf(tail: string): number {
  if (tail === '') return 0
  const groups = tail.split(':')
  return groups.length + (groups.at(-1)?.includes('.') ? 1 : 0)
}

function startOf(tail: string, known: number): string[] {
  const groups = tail.split(':').slice(0, NETWORK_GROUPS - known)
  return groups.map((group) => Number.parseInt(group, 16).toString(16))
}
