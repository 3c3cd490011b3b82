// A worker that takes the tunnels of one of the release before: the right side of handover-letters.ts. Up to their batch it holds
// duplicates of descriptors, which it closes if nothing comes of it.

import type { Arriving, Handover, Identity, Progress } from '../handover.ts'
import { seatsOf } from '../handover.ts'
import type { Letter } from '../linux/descriptor-passing.ts'
import { Passage } from '../linux/descriptor-passing.ts'
import type { Loop } from '../linux/loop.ts'
import type { Door } from '../linux/unix-socket.ts'
import { openDoor } from '../linux/unix-socket.ts'
import type { FromGiver, FromTaker } from './handover-letters.ts'
import { read, written } from './handover-letters.ts'

interface Offered {
  readonly identity: Identity
  readonly client: number
  readonly origin: number
  readonly toClient: Buffer[]
  readonly toOrigin: Buffer[]
}

/** What a letter that waits to be sent may take, before its reader is looked at again, in ms. */
const LOOK_MS = 1

export interface Taker extends Door {
  /**
   * Takes no more. `back` is called when all that is its own has begun, with the processes that it may have it from, those that
   * live; when that is done they are hung up on.
   */
  end(back: (pids: readonly number[]) => Promise<void>): Promise<void>
}

interface Taking {
  /** Takes no more: another batch has no answer. Resolves when all that was taken has begun. */
  settle(): Promise<void>
  hangUp(): void
}

/** `taken` is told the ids of what has just become this worker's and has seats. Throws the system's error. */
export function openTaker(
  loop: Loop,
  handover: Handover,
  folder: string,
  name: string,
  taken: (ids: readonly string[]) => Promise<unknown>,
): Taker {
  /** By the process on the other side. */
  const takings = new Map<number, Taking>()
  const door = openDoor(loop, folder, name, (fd, { pid }) => {
    takings.set(
      pid,
      takeFrom(loop, fd, handover, taken, () => takings.delete(pid)),
    )
  })
  let isOpen = true
  const close = () => {
    if (isOpen) door.close()
    isOpen = false
  }
  return {
    close,
    async end(back) {
      close()
      await Promise.all([...takings.values()].map(({ settle }) => settle()))
      await back([...takings.keys()])
      for (const { hangUp } of takings.values()) hangUp()
    },
  }
}

function takeFrom(
  loop: Loop,
  fd: number,
  handover: Handover,
  taken: (ids: readonly string[]) => Promise<unknown>,
  closed: () => void,
): Taking {
  const offered = new Map<string, Offered>()
  let isEnding = false
  let beginning = Promise.resolve()
  const passage = new Passage(loop, fd, {
    letter: take,
    closed() {
      drop()
      closed()
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
      case 'batch':
        if (!isEnding) beginning = begin(letter.tunnels)
        break
      case 'end':
        handover.end(letter.id, letter.how)
        break
      case 'drop':
        drop()
    }
  }

  function hold(identities: readonly Identity[], { descriptors, isCut }: Letter): void {
    const isTaken =
      !isCut &&
      descriptors.length === identities.length * 2 &&
      offered.size + identities.length <= handover.room()
    if (!isTaken) closeAll(descriptors)
    for (const [at, identity] of isTaken ? identities.entries() : []) {
      const [client = -1, origin = -1] = descriptors.slice(at * 2)
      const one = { identity, client, origin, toClient: [], toOrigin: [] }
      offered.set(identity.facts.id, one)
    }
    say({ kind: 'taken', isTaken })
  }

  async function begin(batch: (FromGiver & { readonly kind: 'batch' })['tunnels']): Promise<void> {
    const arriving = batch.flatMap(([id, progress]) => arrivingOf(offered.get(id), progress))
    // Whoever means others than were offered is not to be trusted with any.
    if (arriving.length < batch.length) return passage.close()
    say({ kind: 'mine' })
    // The other one must know before the first byte is moved here.
    while (!passage.isSent) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
      // It has gone, or has taken them back since this one was silent.
      if (batch.some(([id]) => !offered.has(id))) return
    }
    for (const [id] of batch) offered.delete(id)
    const begun = handover.adopt(arriving)
    const counted = arriving.flatMap(({ identity, progress }) => seatsOf(identity, progress))
    // Before any of them can be over: until then they are the other side's to give back.
    if (counted.length > 0) taken(counted).catch(() => {})
    say({ kind: 'begun', at: await begun })
  }

  function drop(): void {
    for (const { client, origin } of offered.values()) closeAll([client, origin])
    offered.clear()
  }

  function closeAll(descriptors: readonly number[]): void {
    for (const descriptor of descriptors) loop.calls.close(descriptor)
  }

  return {
    settle() {
      isEnding = true
      return beginning
    },
    hangUp: () => passage.close(),
  }
}

function arrivingOf(one: Offered | undefined, progress: Progress): Arriving[] {
  if (one === undefined) return []
  const { identity, client, origin, toClient, toOrigin } = one
  return [{ identity, client, origin, progress, toClient: joined(toClient), toOrigin: joined(toOrigin) }]
}

/** With memory of its own, which can be sent to another thread. */
function joined(chunks: readonly Buffer[]): Uint8Array<ArrayBuffer> | null {
  return chunks.length === 0 ? null : new Uint8Array(Buffer.concat(chunks))
}
