// A worker that takes the tunnels of one of the release before: the right side of handover-letters.ts. Up to `commit` it holds
// duplicates of descriptors, which it closes if nothing comes of it.

import type { Arriving, Handover, Identity, Progress } from '../handover.ts'
import { seatsOf } from '../handover.ts'
import type { Letter } from '../linux/descriptor-passing.ts'
import { Passage } from '../linux/descriptor-passing.ts'
import type { Loop } from '../linux/loop.ts'
import { monotonicMs } from '../linux/monotonic.ts'
import type { Door } from '../linux/unix-socket.ts'
import { openDoor } from '../linux/unix-socket.ts'
import type { FromGiver, FromTaker } from './handover-letters.ts'
import { read, written } from './handover-letters.ts'

interface Offered {
  readonly identity: Identity
  readonly client: number
  readonly origin: number
  progress: Progress | null
  readonly toClient: Buffer[]
  readonly toOrigin: Buffer[]
}

/** What a letter that waits to be sent may take, before its reader is looked at again, in ms. */
const LOOK_MS = 1

/** `taken` is told the ids of what has just become this worker's and has seats. Throws the system's error. */
export function openTaker(
  loop: Loop,
  handover: Handover,
  folder: string,
  name: string,
  taken: (ids: readonly string[]) => Promise<unknown>,
): Door {
  return openDoor(loop, folder, name, (fd) => takeFrom(loop, fd, handover, taken))
}

function takeFrom(
  loop: Loop,
  fd: number,
  handover: Handover,
  taken: (ids: readonly string[]) => Promise<unknown>,
): void {
  let offered = new Map<string, Offered>()
  let isOver = false
  const passage = new Passage(loop, fd, {
    letter: take,
    closed() {
      isOver = true
      drop()
    },
  })

  function say(letter: FromTaker): void {
    passage.send(written(letter))
  }

  function take(arrived: Letter): void {
    const { letter, bytes } = read<FromGiver>(arrived.bytes)
    switch (letter.kind) {
      case 'offer':
        hold(letter.tunnels, arrived)
        break
      case 'kept': {
        const one = offered.get(letter.id)
        const bytesOf = letter.side === 'client' ? one?.toClient : one?.toOrigin
        bytesOf?.push(Buffer.from(bytes))
        break
      }
      case 'progress':
        for (const [id, progress] of letter.tunnels) tell(id, progress)
        break
      case 'complete':
        check(letter.count)
        break
      case 'commit':
        void begin()
        break
      case 'drop':
        drop()
    }
  }

  function tell(id: string, progress: Progress): void {
    const one = offered.get(id)
    if (one !== undefined) one.progress = progress
  }

  function check(wanted: number): void {
    const count = [...offered.values()].filter(({ progress }) => progress !== null).length
    say({ kind: 'complete', trouble: count === wanted ? null : `knows ${count} of ${wanted} tunnels` })
  }

  function hold(identities: readonly Identity[], { descriptors, isCut }: Letter): void {
    const isTaken =
      !isCut &&
      descriptors.length === identities.length * 2 &&
      offered.size + identities.length <= handover.room()
    if (!isTaken) closeAll(descriptors)
    for (const [at, identity] of isTaken ? identities.entries() : []) {
      const [client = -1, origin = -1] = descriptors.slice(at * 2)
      const one = { identity, client, origin, progress: null, toClient: [], toOrigin: [] }
      offered.set(identity.facts.id, one)
    }
    say({ kind: 'taken', isTaken })
  }

  async function begin(): Promise<void> {
    say({ kind: 'mine' })
    // The other one must know before the first byte is moved here.
    while (!passage.isSent) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
      if (isOver) return
    }
    const all = [...offered.values()]
    offered = new Map()
    const arriving = all.flatMap(arrivingOf)
    await handover.adopt(arriving)
    const at = monotonicMs()
    for (const { progress, client, origin } of all) if (progress === null) closeAll([client, origin])
    const counted = arriving.flatMap(({ identity, progress }) => seatsOf(identity, progress))
    await taken(counted).catch(() => {})
    say({ kind: 'begun', at })
  }

  function drop(): void {
    for (const { client, origin } of offered.values()) closeAll([client, origin])
    offered.clear()
  }

  function closeAll(descriptors: readonly number[]): void {
    for (const descriptor of descriptors) loop.calls.close(descriptor)
  }
}

function arrivingOf({ identity, client, origin, progress, toClient, toOrigin }: Offered): Arriving[] {
  if (progress === null) return []
  return [{ identity, client, origin, progress, toClient: joined(toClient), toOrigin: joined(toOrigin) }]
}

/** With memory of its own, which can be sent to another thread. */
function joined(chunks: readonly Buffer[]): Uint8Array | null {
  return chunks.length === 0 ? null : new Uint8Array(Buffer.concat(chunks))
}
