// The origin as a process: answers each upgrade with the right 101 and then sends every byte back. It knows no frames.

import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { createServer } from 'node:net'
import { answerCalls } from '../process.ts'
import { answerTo } from './handshake.ts'

const HEAD_LIMIT = 65_536

const sockets = new Set<Socket>()
let failure: string | null = null

function accept(socket: Socket): void {
  sockets.add(socket)
  socket.on('data', readHead)
  socket.on('drain', resumeReading)
  socket.on('end', sendEnd)
  socket.on('error', noteError)
  socket.on('close', forget)
}

const heads = new WeakMap<Socket, string>()

function readHead(this: Socket, chunk: Buffer): void {
  const head = (heads.get(this) ?? '') + chunk.toString('latin1')
  const end = head.indexOf('\r\n\r\n')
  if (end === -1 && head.length < HEAD_LIMIT) {
    heads.set(this, head)
    return
  }
  heads.delete(this)
  this.off('data', readHead)
  this.on('data', echo)
  try {
    this.write(answerTo(head.slice(0, end + 4)), 'latin1')
    if (head.length > end + 4) this.write(Buffer.from(head.slice(end + 4), 'latin1'))
  } catch (error) {
    failure ??= String(error)
    this.destroy()
  }
}

function echo(this: Socket, chunk: Buffer): void {
  if (!this.write(chunk)) this.pause()
}

function resumeReading(this: Socket): void {
  this.resume()
}

function sendEnd(this: Socket): void {
  this.end()
}

function noteError(this: Socket, error: Error): void {
  failure ??= String(error)
}

function forget(this: Socket): void {
  sockets.delete(this)
}

const calls = {
  /** Resolves with the address. */
  async listen(): Promise<string> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, accept)
    server.listen({ host: '127.0.0.1', port: 0, backlog: 4_096 })
    await once(server, 'listening')
    return `127.0.0.1:${(server.address() as AddressInfo).port}`
  },

  /** How many connections are open. Throws what has gone wrong on any of them so far. */
  open(): number {
    if (failure !== null) throw new Error(failure)
    return sockets.size
  },
}

export type OriginCalls = typeof calls
answerCalls(calls)
