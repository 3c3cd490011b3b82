// System calls of Linux, through koffi: the only file that knows koffi. One function each, named as in its man page
// (section 2, but for those that say otherwise). They return what the call returns, -1 for an error, whose number is then
// in `errno()`. A buffer must stay as it is while a call runs, and no call here keeps one.

import { createRequire } from 'node:module'
import { constants } from 'node:os'

/** Any view of memory; the call reads or writes it. */
export type Memory = NodeJS.ArrayBufferView

export interface Libc {
  /** Of the last call that failed in this thread. */
  errno(): number
  accept4(fd: number, address: Memory | null, size: Memory | null, flags: number): number
  bind(fd: number, address: Memory, size: number): number
  close(fd: number): number
  connect(fd: number, address: Memory, size: number): number
  epoll_create1(flags: number): number
  epoll_ctl(epoll: number, operation: number, fd: number, event: Memory | null): number
  epoll_wait(epoll: number, events: Memory, count: number, timeoutMs: number): number
  eventfd(initial: number, flags: number): number
  fcntl(fd: number, command: number, value: number): number
  getpagesize(): number
  getrlimit(resource: number, limit: Memory): number
  getsockname(fd: number, address: Memory, size: Memory): number
  getsockopt(fd: number, level: number, option: number, value: Memory, size: Memory): number
  /** The text of an address, null if the family is wrong (inet_ntop(3)). */
  inet_ntop(family: number, address: Memory, text: Memory, size: number): string | null
  /** 1, or 0 if the text is no address (inet_pton(3)). */
  inet_pton(family: number, text: string, address: Memory): number
  ioctl(fd: number, request: number, value: Memory): number
  listen(fd: number, backlog: number): number
  /** An address; 2n ** 64n - 1n for an error. */
  mmap(address: null, size: number, protection: number, flags: number, fd: number, offset: number): bigint
  munmap(address: bigint, size: number): number
  pipe2(fds: Memory, flags: number): number
  read(fd: number, bytes: Memory, size: number): number
  recv(fd: number, bytes: Memory, size: number, flags: number): number
  /** `message`: a struct msghdr (descriptor-passing.ts). */
  recvmsg(fd: number, message: Memory, flags: number): number
  send(fd: number, bytes: Memory, size: number, flags: number): number
  sendmsg(fd: number, message: Memory, flags: number): number
  sendto(fd: number, bytes: Memory, size: number, flags: number, to: Memory, toSize: number): number
  setsockopt(fd: number, level: number, option: number, value: Memory, size: number): number
  shutdown(fd: number, how: number): number
  socket(domain: number, type: number, protocol: number): number
  splice(from: number, fromOffset: null, to: number, toOffset: null, size: number, flags: number): number
  /** For calls that have no wrapper in the C library (syscall(2)): the number, then up to three arguments. */
  syscall(number: number, first: number, second: Memory, third: number): number
  waitpid(pid: number, status: Memory | null, options: number): number
  write(fd: number, bytes: Memory, size: number): number
  /** Calls back when `fd` is readable, once in each turn of node's event loop until it is not; by libuv (uv_poll). */
  poll(fd: number, readable: () => void): PollHandle
  /** The address of a view's memory, for structures that point to others. */
  address(memory: Memory): bigint
  /** Memory at an address, such as mmap's: not to be used after munmap. */
  view(address: bigint, size: number): ArrayBuffer
}

/** While it is referenced it keeps the process alive. */
export interface PollHandle {
  ref(): void
  unref(): void
  close(): void
}

const SIGNATURES = [
  'int accept4(int fd, void *address, void *size, int flags)',
  'int bind(int fd, void *address, uint32_t size)',
  'int close(int fd)',
  'int connect(int fd, void *address, uint32_t size)',
  'int epoll_create1(int flags)',
  'int epoll_ctl(int epoll, int operation, int fd, void *event)',
  'int epoll_wait(int epoll, void *events, int count, int timeout)',
  'int eventfd(unsigned int initial, int flags)',
  'int fcntl(int fd, int command, int value)',
  'int getpagesize()',
  'int getrlimit(int resource, void *limit)',
  'int getsockname(int fd, void *address, void *size)',
  'int getsockopt(int fd, int level, int option, void *value, void *size)',
  'const char *inet_ntop(int family, void *address, void *text, uint32_t size)',
  'int inet_pton(int family, const char *text, void *address)',
  'int ioctl(int fd, unsigned long request, void *value)',
  'int listen(int fd, int backlog)',
  'void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset)',
  'int munmap(void *address, size_t size)',
  'int pipe2(void *fds, int flags)',
  'int64_t read(int fd, void *bytes, size_t size)',
  'int64_t recv(int fd, void *bytes, size_t size, int flags)',
  'int64_t recvmsg(int fd, void *message, int flags)',
  'int64_t send(int fd, void *bytes, size_t size, int flags)',
  'int64_t sendmsg(int fd, void *message, int flags)',
  'int64_t sendto(int fd, void *bytes, size_t size, int flags, void *to, uint32_t toSize)',
  'int setsockopt(int fd, int level, int option, void *value, uint32_t size)',
  'int shutdown(int fd, int how)',
  'int socket(int domain, int type, int protocol)',
  'int64_t splice(int from, void *fromOffset, int to, void *toOffset, size_t size, unsigned int flags)',
  'int64_t syscall(int64_t number, int64_t first, void *second, int64_t third)',
  'int waitpid(int pid, void *status, int options)',
  'int64_t write(int fd, void *bytes, size_t size)',
]

let loaded: Libc | undefined

/** The table of calls, the same one for all in a thread. Throws an Error that says in words what is missing. */
export function libc(): Libc {
  loaded ??= load()
  return loaded
}

/** Null where there is no koffi, or another system. */
export function libcOrNull(): Libc | null {
  try {
    return libc()
  } catch {
    return null
  }
}

function load(): Libc {
  if (process.platform !== 'linux') throw new Error(`it needs Linux, and this is ${process.platform}`)
  if (process.arch !== 'x64' && process.arch !== 'arm64') {
    throw new Error(`it knows the system's structures on x64 and arm64, and this is ${process.arch}`)
  }
  const koffi = loadKoffi()
  // What node itself is linked with: glibc or musl, whichever it is.
  const library = koffi.load(null)
  const calls = Object.fromEntries(
    SIGNATURES.map((signature) => {
      const call = library.func(signature)
      return [call.info.name, call]
    }),
  )
  return Object.assign(calls, {
    errno: () => koffi.errno(),
    address: (memory: Memory) => koffi.address(memory),
    view: (address: bigint, size: number) => koffi.view(address, size),
    poll: (fd: number, readable: () => void) => koffi.node.poll(fd, readable),
  }) as unknown as Libc
}

function loadKoffi(): typeof import('koffi') {
  try {
    return createRequire(import.meta.url)('koffi')
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException
    throw new Error(`the optional package koffi can't be loaded (${code}): npm install koffi@3.3.4`)
  }
}

const NAMES = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]))

/** `ECONNRESET` for 104; see errno(3). */
export function errorName(number: number): string {
  // Two names for one number: the one that node uses.
  if (number === EAGAIN) return 'EAGAIN'
  return NAMES.get(number) ?? `errno ${number}`
}

/** The error that node would have made of it. */
export function systemError(number: number, call: string): NodeJS.ErrnoException {
  const code = errorName(number)
  return Object.assign(new Error(`${call} ${code}`), { code, errno: -number, syscall: call })
}

// Numbers of the Linux ABI on x64 and arm64, which agree but where it is said.

export const EINTR = 4
export const EAGAIN = 11
export const ENOMEM = 12
export const ENFILE = 23
export const EMFILE = 24
export const ENOSPC = 28
export const EPIPE = 32
export const EAFNOSUPPORT = 97
export const EADDRINUSE = 98
export const EADDRNOTAVAIL = 99
export const ECONNABORTED = 103
export const ECONNRESET = 104
export const ENOBUFS = 105
export const ETOOMANYREFS = 109
export const ETIMEDOUT = 110
export const EINPROGRESS = 115

export const AF_UNSPEC = 0
export const AF_UNIX = 1
export const AF_INET = 2
export const AF_INET6 = 10
export const SOCK_STREAM = 1
export const SOCK_DGRAM = 2
export const SOCK_SEQPACKET = 5
export const SOCK_NONBLOCK = 0x800
export const SOCK_CLOEXEC = 0x80000
export const SHUT_WR = 1
export const SHUT_RDWR = 2

export const SOL_SOCKET = 1
export const SO_REUSEADDR = 2
export const SO_TYPE = 3
export const SO_ERROR = 4
export const SO_SNDBUF = 7
export const SO_RCVBUF = 8
export const SO_KEEPALIVE = 9
export const SO_LINGER = 13
export const SO_REUSEPORT = 15
export const SO_PEERCRED = 17
export const SO_RCVLOWAT = 18
export const SO_SNDTIMEO = 21
export const SO_ATTACH_FILTER = 26
export const SO_ACCEPTCONN = 30
export const SO_SNDBUFFORCE = 32
export const SO_COOKIE = 57
export const IPPROTO_IP = 0
export const IP_BIND_ADDRESS_NO_PORT = 24
export const IPPROTO_TCP = 6
export const TCP_NODELAY = 1
export const TCP_KEEPIDLE = 4
export const TCP_KEEPINTVL = 5
export const TCP_KEEPCNT = 6
export const TCP_INFO = 11
export const TCP_REPAIR = 19
export const TCP_REPAIR_QUEUE = 20
export const TCP_QUEUE_SEQ = 21
export const TCP_USER_TIMEOUT = 18
export const TCP_NOTSENT_LOWAT = 25
export const SIOCOUTQ = 0x5411

export const SCM_RIGHTS = 1
export const MSG_CTRUNC = 0x8
export const MSG_DONTWAIT = 0x40
export const MSG_NOSIGNAL = 0x4000
export const MSG_CMSG_CLOEXEC = 0x40000000

export const PROT_READ = 1
export const PROT_WRITE = 2
export const MAP_SHARED = 1
export const MAP_FAILED = 2n ** 64n - 1n

export const F_SETFD = 2
export const FD_CLOEXEC = 1
export const WNOHANG = 1
export const F_DUPFD_CLOEXEC = 1030
export const F_SETPIPE_SZ = 1031
export const O_NONBLOCK = 0x800
export const O_CLOEXEC = 0x80000
export const EFD_NONBLOCK = 0x800
export const EFD_CLOEXEC = 0x80000
export const SPLICE_F_MOVE = 1
export const SPLICE_F_NONBLOCK = 2
export const RLIMIT_NOFILE = 7

export const EPOLL_CLOEXEC = 0x80000
export const EPOLL_CTL_ADD = 1
export const EPOLL_CTL_DEL = 2
export const EPOLL_CTL_MOD = 3
export const EPOLLIN = 0x1
export const EPOLLOUT = 0x4
export const EPOLLERR = 0x8
export const EPOLLHUP = 0x10
export const EPOLLRDHUP = 0x2000
export const EPOLLET = 0x80000000 | 0

/** struct epoll_event in 32-bit words: packed on x64, where data follows the events at once (epoll_ctl(2)). */
export const EVENT_WORDS = process.arch === 'x64' ? 3 : 4
export const EVENT_DATA = process.arch === 'x64' ? 1 : 2

/** struct linger: on, 0 s: close(2) sends RST (socket(7)). */
export const LINGER_RST = new Int32Array([1, 0])

/** bpf(2) has no wrapper in the C library. */
export const SYS_BPF = process.arch === 'x64' ? 321 : 280
