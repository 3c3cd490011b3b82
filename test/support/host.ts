// Loopback has 16 million addresses.

let hosts = 0

/** A host that nobody else listens on: nobody is given a port of it while that is free for a moment. */
export function ownHost(): string {
  hosts += 1
  return `127.9.${process.pid % 250}.${hosts}`
}
