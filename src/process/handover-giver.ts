// A worker that gives its tunnels to one of the new release: the left side of handover-letters.ts.
//
//   idle ──offer──▶ offered ──giveAway──▶ some frozen ──▶ theirs, the next … ──▶ idle, as often as tunnels have come

import { setTimeout as pause } from 'node:timers/promises'
import type { Freezing, FrozenTunnel, Handover } from '../handover.ts'
import { seatsOf } from '../handover.ts'
import { DESCRIPTORS_LIMIT, LETTER_BYTES, Passage } from '../linux/descriptor-passing.ts'
import type { Loop } from '../linux/loop.ts'
import { knock } from '../linux/unix-socket.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { FromGiver, FromTaker } from './handover-letters.ts'
import { read, written } from './handover-letters.ts'
import { inOrder } from './turns.ts'

/** Tunnels that stood still together. */
export interface Share {
  readonly tunnels: number
  readonly pauseMs: number
}

export interface Given {
  /** What was moved. */
  readonly shares: readonly Share[]
  /** How many were the other side's, which has not said that they go on. */
  readonly lost: number
  /** The ids that have seats in the ledger. */
  readonly counted: readonly string[]
  /** Tunnels that can't be moved, and stay. */
  readonly stayed: number
  /** Why it came to an end before the last of them: these go on here. Null: it did not. */
  readonly trouble: string | null
  /** The other side lives, and did not answer. */
  readonly isSilent: boolean
}

interface Parts {
  readonly shares: Share[]
  readonly counted: string[]
  lost: number
}

export interface Giver {
  /** Tells the other side who there is, as far as it does not know; resolves with how many it has. All of them go on. */
  offer(): Promise<number>
  /** Moves those that were offered, some at a time. */
  giveAway(): Promise<Given>
  /** What was not moved stays. The other side is ended, if it may be and never had any of these. */
  giveUp(mayEnd: boolean): void
  /** No more of them are moved: they are to end here. */
  halt(): void
  /** The new release is in charge, or about to be: it lists what it has got. */
  settle(): void
  /** The other side has gone. */
  readonly isAlone: boolean
  /** The other side has not answered in time, gets no more, and was not ended. It has duplicates of these until it goes on. */
  readonly isSilent: boolean
  /** Of the other side. */
  readonly pid: number
  /** With all that the other side has. */
  end(): void
}

/** So many tunnels in a letter: two descriptors each. */
const OFFER_COUNT = Math.floor(DESCRIPTORS_LIMIT / 2)
/** So many stand still together: first few, which also shows whether the new release can carry them at all. */
const FIRST_BATCH = 16
/** Some 130 bytes each. */
const BATCH = 64
/** Where the kernel moves the bytes, it is waited for those that are on their way, which is never long: so often, for so many ms. */
const WAITS_LIMIT = 500
const WAIT_MS = 2
/** Leaves room for the line before it. */
const KEPT_BYTES = LETTER_BYTES - 1_024
/** An identity is short, but for what the config calls things. */
const IDENTITY_BYTES = 1_024

/** What each answer may take, in ms. */
const ANSWER_TIMEOUT_MS = 5_000

/** Throws the system's error. */
export function createGiver(loop: Loop, handover: Handover, folder: string, name: string): Giver {
  const { fd, peer } = knock(loop, folder, name)
  const offered = new Map<string, Tunnel>()
  const arrived: FromTaker[] = []
  /** The other side's, and still listed here. */
  let left: FrozenTunnel[] = []
  let isFull = false
  let isClosed = false
  let isHalted = false
  let hasMoved = false
  let isSettled = false
  let isSilent = false
  /** By this one: it dies, which takes a moment on a busy machine. */
  let isEnded = false
  let changed: () => void = () => {}
  /** One thing after the other: only one answer is waited for at a time, and nobody is offered twice. */
  const later = inOrder()
  const passage = new Passage(loop, fd, {
    letter(letter) {
      arrived.push(read<FromTaker>(letter.bytes).letter)
      changed()
    },
    closed() {
      isClosed = true
      handover.share(false)
      changed()
    },
  })

  function say(letter: FromGiver, bytes?: Uint8Array, descriptors?: readonly number[]): void {
    passage.send(written(letter, bytes), descriptors)
  }

  /** Rejects if the other side goes first, or takes longer. What it has said before it went is heard. */
  function hear<Kind extends FromTaker['kind']>(
    kind: Kind,
    timeoutMs: number,
  ): Promise<FromTaker & { readonly kind: Kind }> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) => {
        clearTimeout(timer)
        changed = () => {}
        reject(new Error(`the worker of the new release ${why}`))
      }
      const tooLate = () => {
        // This process may have stood still itself, and not the other one.
        passage.read()
        if (changed !== look) return
        isSilent = true
        fail(`(process ${peer.pid}) has not said ${kind} within ${timeoutMs} ms`)
      }
      const timer = setTimeout(tooLate, timeoutMs)
      const look = () => {
        const at = arrived.findIndex((one) => one.kind === kind)
        const [found] = at === -1 ? [] : arrived.splice(at, 1)
        if (found === undefined) return void (isClosed && fail(`has gone before it said ${kind}`))
        clearTimeout(timer)
        changed = () => {}
        resolve(found as FromTaker & { readonly kind: Kind })
      }
      changed = look
      look()
    })
  }

  async function offer(): Promise<number> {
    if (isHalted || isSilent) return 0
    handover.share(true)
    const fresh = handover.movable().filter(({ facts }) => !offered.has(facts.id))
    for (let at = 0; at < fresh.length && !isFull; at += OFFER_COUNT) {
      await offerSome(fresh.slice(at, at + OFFER_COUNT))
    }
    return offered.size
  }

  async function offerSome(some: readonly Tunnel[]): Promise<void> {
    const all = some.flatMap((tunnel) => {
      const descriptors = identityOf(tunnel) === null ? null : handover.duplicate(tunnel)
      return descriptors === null ? [] : [{ tunnel, descriptors }]
    })
    // However long names are: a letter has an end.
    for (const part of parts(
      all,
      ({ tunnel }) => Buffer.byteLength(JSON.stringify(identityOf(tunnel))),
      LETTER_BYTES - 64,
    )) {
      const descriptors = part.flatMap((one) => [...one.descriptors])
      try {
        say(
          { kind: 'offer', tunnels: part.flatMap(({ tunnel }) => identityOf(tunnel) ?? []) },
          undefined,
          descriptors,
        )
        const { isTaken } = await hear('taken', ANSWER_TIMEOUT_MS)
        if (isTaken) for (const { tunnel } of part) offered.set(tunnel.facts.id, tunnel)
        else isFull = true
      } finally {
        for (const descriptor of descriptors) loop.calls.close(descriptor)
      }
    }
  }

  async function giveAway(): Promise<Given> {
    const meant = new Set(offered.values())
    offered.clear()
    const given: Parts = { shares: [], counted: [], lost: 0 }
    const trouble = await giveAll([...meant], given).then(
      () => null,
      (error: Error) => error.message,
    )
    say({ kind: 'drop' })
    // It has duplicates until it hears that.
    if (isClosed || !isSilent) handover.share(false)
    if (isSettled) forget()
    const stuck = handover.movable().filter((tunnel) => isFull || isHalted || meant.has(tunnel))
    const stayed = handover.immovable() + stuck.length
    return { ...given, stayed, trouble, isSilent: isSilent && !isClosed }
  }

  /** Rejects with the reason why the rest stays. */
  async function giveAll(all: readonly Tunnel[], given: Parts): Promise<void> {
    let rest = all
    let size = FIRST_BATCH
    let waits = 0
    while (rest.length > 0 && !isHalted && waits < WAITS_LIMIT) {
      const freezing = await handover.freeze(rest.slice(0, size))
      rest = [...rest.slice(size), ...freezing.later]
      if (freezing.frozen.length > 0) {
        await give(freezing, given)
        size = Math.min(size * 2, BATCH)
        waits = 0
      } else if (freezing.later.length > 0) {
        await pause(WAIT_MS)
        waits += 1
      }
    }
  }

  /** Rejects if it is not certain that they go on there. Then they go on here, but if they were the other side's already. */
  async function give({ at, frozen }: Freezing, given: Parts): Promise<void> {
    for (const { tunnel, carried } of frozen) {
      tellKept(tunnel.facts.id, 'client', carried.toClient)
      tellKept(tunnel.facts.id, 'origin', carried.toOrigin)
    }
    say({ kind: 'batch', tunnels: frozen.map(({ tunnel, progress }) => [tunnel.facts.id, progress]) })
    const refusal = await refused()
    if (refusal !== null) {
      handover.thaw(frozen)
      throw refusal
    }
    hasMoved = true
    given.counted.push(...frozen.flatMap(({ tunnel, progress }) => seatsOf(tunnel, progress)))
    given.lost += frozen.length
    try {
      // A worker that dies before takes its tunnels along, like each of them.
      const begun = await hear('begun', ANSWER_TIMEOUT_MS)
      given.lost -= frozen.length
      given.shares.push({ tunnels: frozen.length, pauseMs: begun.at - at })
    } finally {
      handover.leave(frozen, (tunnel, how) => say({ kind: 'end', id: tunnel.facts.id, how }))
      left.push(...frozen)
    }
  }

  function tellKept(id: string, side: 'client' | 'origin', bytes: Uint8Array | null): void {
    for (let at = 0; bytes !== null && at < bytes.length; at += KEPT_BYTES) {
      say({ kind: 'kept', id, side }, bytes.subarray(at, at + KEPT_BYTES))
    }
  }

  /** Why the batch is not the other side's; null: it is. Nobody may go on with it before that is certain. */
  async function refused(): Promise<Error | null> {
    const heard = (withinMs: number) =>
      hear('mine', withinMs).then(
        () => null,
        (error: Error) => error,
      )
    const refusal = await heard(ANSWER_TIMEOUT_MS)
    if (refusal === null || isClosed) return refusal
    // One that has tunnels already is not killed for being slow: it gets no more.
    if (isNeeded()) passage.deafen()
    else endPeer()
    // What it has said before still counts; of whoever is killed it arrives with its end.
    return (await heard(isNeeded() ? 0 : LONGEST_MS)) === null ? null : refusal
  }

  function isNeeded(): boolean {
    return hasMoved || isSettled
  }

  function giveUp(mayEnd: boolean): void {
    forget()
    if (mayEnd && !isNeeded()) endPeer()
    void later(() => {
      offered.clear()
      say({ kind: 'drop' })
    })
  }

  function forget(): void {
    const gone = left
    left = []
    handover.forget(gone)
  }

  function endPeer(): void {
    if (isClosed || peer.pid === 0) return
    isEnded = true
    try {
      process.kill(peer.pid, 'SIGKILL')
    } catch {
      // It has gone by itself.
    }
  }

  return {
    offer: () => later(offer),
    giveAway: () => later(giveAway),
    giveUp,
    halt() {
      isHalted = true
    },
    settle() {
      isSettled = true
      forget()
    },
    get isAlone() {
      return isClosed
    },
    get isSilent() {
      return isSilent && !isClosed && !isEnded
    },
    pid: peer.pid,
    end: endPeer,
  }
}

/** What setTimeout can wait. */
const LONGEST_MS = 2 ** 31 - 1

/** Null if its names are too long for any letter. */
function identityOf({ facts, backend }: Tunnel) {
  const identity = { facts, backend: backend.options.name }
  return Buffer.byteLength(JSON.stringify(identity)) > LETTER_BYTES - IDENTITY_BYTES ? null : identity
}

/** In order, none of them bigger than `limit`. */
function parts<Item>(items: readonly Item[], sizeOf: (item: Item) => number, limit: number): Item[][] {
  const all: Item[][] = []
  let size = limit
  for (const item of items) {
    const own = sizeOf(item) + 1
    size += own
    if (size > limit) {
      all.push([])
      size = own
    }
    all.at(-1)?.push(item)
  }
  return all
}
