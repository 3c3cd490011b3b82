// A worker that gives its tunnels to one of the new release: the left side of handover-letters.ts.
//
//   idle ──offer──▶ offered ──freeze──▶ frozen ──commit──▶ idle, as often as tunnels have come     giveUp() ──▶ over, from all

import type { FrozenTunnel, Handover } from '../handover.ts'
import { seatsOf } from '../handover.ts'
import { DESCRIPTORS_LIMIT, LETTER_BYTES, Passage } from '../linux/descriptor-passing.ts'
import type { Loop } from '../linux/loop.ts'
import { knock } from '../linux/unix-socket.ts'
import type { Tunnel } from '../tunnel/tunnel.ts'
import type { FromGiver, FromTaker } from './handover-letters.ts'
import { read, written } from './handover-letters.ts'

export interface Given {
  /** False: all of it goes on here. */
  readonly isTaken: boolean
  readonly moved: number
  /** The longest that one of them stood still, in ms. */
  readonly pauseMs: number
  /** The ids that have seats in the ledger. */
  readonly counted: readonly string[]
}

export interface Giver {
  /** Tells the other side who there is, as far as it does not know; resolves with how many it has. All of them go on. */
  offer(): Promise<number>
  /** Stops those that were offered, and tells the rest of them. Rejects if the other side does not have all of it in time. */
  freeze(): Promise<void>
  /** Gives away what is frozen: or takes it back, if the other side has not taken it. */
  commit(): Promise<Given>
  /** What is frozen goes on here. The other side is ended, if it never had any. */
  giveUp(): void
}

/** So many tunnels in a letter: two descriptors each. */
const OFFER_COUNT = Math.floor(DESCRIPTORS_LIMIT / 2)
/** Some 100 bytes each. */
const PROGRESS_COUNT = 250
/** Leaves room for the line before it. */
const KEPT_BYTES = LETTER_BYTES - 1_024
/** An identity is short, but for what the config calls things. */
const IDENTITY_BYTES = 1_024

/** What each answer may take, in ms: frozen tunnels wait for the last two of them. */
const ANSWER_TIMEOUT_MS = 5_000

/** Throws the system's error. */
export function createGiver(loop: Loop, handover: Handover, folder: string, name: string): Giver {
  const { fd, peer } = knock(loop, folder, name)
  const offered = new Map<string, Tunnel>()
  const arrived: FromTaker[] = []
  let frozen: readonly FrozenTunnel[] = []
  let frozenAt = 0
  let isFull = false
  let isClosed = false
  let hasMoved = false
  let changed: () => void = () => {}
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
      const timer = setTimeout(fail, timeoutMs, `has not said ${kind} within ${timeoutMs} ms`)
      changed = () => {
        const at = arrived.findIndex((one) => one.kind === kind)
        const [found] = at === -1 ? [] : arrived.splice(at, 1)
        if (found === undefined) return void (isClosed && fail(`has gone before it said ${kind}`))
        clearTimeout(timer)
        changed = () => {}
        resolve(found as FromTaker & { readonly kind: Kind })
      }
      changed()
    })
  }

  async function offer(): Promise<number> {
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

  async function freeze(): Promise<void> {
    const stopped = await handover.freeze([...offered.values()])
    frozen = stopped.frozen
    frozenAt = stopped.at
    for (const { tunnel, carried } of frozen) {
      tellKept(tunnel.facts.id, 'client', carried.toClient)
      tellKept(tunnel.facts.id, 'origin', carried.toOrigin)
    }
    for (let at = 0; at < frozen.length; at += PROGRESS_COUNT) {
      const some = frozen.slice(at, at + PROGRESS_COUNT)
      say({ kind: 'progress', tunnels: some.map(({ tunnel, progress }) => [tunnel.facts.id, progress]) })
    }
    say({ kind: 'complete', count: frozen.length })
    const { trouble } = await hear('complete', ANSWER_TIMEOUT_MS)
    if (trouble !== null) throw new Error(`the worker of the new release ${trouble}`)
  }

  function tellKept(id: string, side: 'client' | 'origin', bytes: Uint8Array | null): void {
    for (let at = 0; bytes !== null && at < bytes.length; at += KEPT_BYTES) {
      say({ kind: 'kept', id, side }, bytes.subarray(at, at + KEPT_BYTES))
    }
  }

  async function commit(): Promise<Given> {
    say({ kind: 'commit' })
    if (!(await isTheirs())) {
      giveUp()
      return { isTaken: false, moved: 0, pauseMs: 0, counted: [] }
    }
    const given = frozen
    frozen = []
    offered.clear()
    hasMoved = true
    handover.leave(given)
    // A worker that dies from here on takes its tunnels along, like each of them.
    const at = await hear('begun', ANSWER_TIMEOUT_MS).then(
      (begun) => begun.at,
      () => frozenAt,
    )
    handover.share(false)
    const counted = given.flatMap(({ tunnel, progress }) => seatsOf(tunnel, progress))
    return { isTaken: true, moved: given.length, pauseMs: at - frozenAt, counted }
  }

  /** Nobody may go on with them before it is certain that the other one does not. */
  async function isTheirs(): Promise<boolean> {
    const isSaid = (withinMs: number) =>
      hear('mine', withinMs).then(
        () => true,
        () => false,
      )
    // One that has tunnels already is not killed for being slow.
    if (await isSaid(hasMoved ? LONGEST_MS : ANSWER_TIMEOUT_MS)) return true
    if (isClosed) return false
    endPeer()
    // What it has said before it was killed still arrives.
    return await isSaid(LONGEST_MS)
  }

  function giveUp(): void {
    const back = frozen
    frozen = []
    offered.clear()
    handover.thaw(back)
    if (hasMoved) say({ kind: 'drop' })
    else endPeer()
  }

  function endPeer(): void {
    if (isClosed || peer.pid === 0) return
    try {
      process.kill(peer.pid, 'SIGKILL')
    } catch {
      // It has gone by itself.
    }
  }

  return { offer, freeze, commit, giveUp }
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
