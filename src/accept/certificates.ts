// The certificates of a TLS listener: chosen by SNI, read again when their files change.

import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import type { SecureContext, SecureContextOptions } from 'node:tls'
import { createSecureContext } from 'node:tls'
import { HeadraceError } from '../errors.ts'

/** Each is the path of a PEM file, or PEM text. */
export interface CertificatePair {
  readonly certificate: string
  readonly key: string
}

export interface TlsOptions {
  /** The first is the default, for clients that name no or another server. */
  readonly pairs: readonly CertificatePair[]
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3'
  /** How often the files are looked at, in ms; default WATCH_INTERVAL_MS. */
  readonly watchIntervalMs?: number
}

export interface Certificates {
  /** What a client gets that asks for this name. */
  contextFor(servername: string): SecureContext
  /** What a client gets that asks for no name. */
  readonly first: SecureContextOptions
  /** When they expire, each under the first of its names, in the order of the pairs. */
  readonly expiries: readonly Expiry[]
  /** Where they come from and what was read there: two with the same are the same. */
  readonly content: string
  /** Called when certificates were read again. */
  onChange: (() => void) | null
  /** Stops watching the files. */
  close(): void
}

/**
 * How often the files are looked at, in ms. By stat and not by inotify: stat follows symbolic links, so that an atomic
 * rename is seen, and Kubernetes' swap of a whole folder (`..data`) behind one.
 */
export const WATCH_INTERVAL_MS = 2_000

export interface Expiry {
  readonly name: string
  /** Epoch seconds. */
  readonly expiresAt: number
}

interface Loaded {
  readonly names: readonly string[]
  /** Epoch seconds. */
  readonly expiresAt: number
  readonly options: SecureContextOptions
  readonly context: SecureContext
}

/**
 * Loads all pairs. Throws config-invalid naming the file. Later changes of a file that make no valid pair are told to
 * `onTrouble` and change nothing.
 */
export function loadCertificates(
  { pairs, minVersion = 'TLSv1.2', watchIntervalMs = WATCH_INTERVAL_MS }: TlsOptions,
  onTrouble: (what: HeadraceError) => void,
): Certificates {
  const loaded = pairs.map((pair) => load(pair, minVersion, onTrouble))
  let table = tableOf(loaded)
  const watched: (() => void)[] = []

  for (const [at, pair] of pairs.entries()) {
    const reload = () => {
      try {
        loaded[at] = load(pair, minVersion, onTrouble)
        table = tableOf(loaded)
        certificates.onChange?.()
      } catch (error) {
        // Often only half of the pair has been written yet; the other half will be seen, too.
        onTrouble(error as HeadraceError)
      }
    }
    for (const file of [pair.certificate, pair.key]) {
      if (isText(file)) continue
      watched.push(() => unwatchFile(file, reload))
      watchFile(file, { interval: watchIntervalMs, persistent: false }, reload)
    }
  }

  const certificates: Certificates = {
    contextFor: (servername) => table.byName(servername) ?? table.first.context,
    get first() {
      return table.first.options
    },
    get expiries() {
      return loaded.map(({ names: [name = ''], expiresAt }) => ({ name, expiresAt }))
    },
    get content() {
      return JSON.stringify([pairs, minVersion, loaded.map(({ options: { cert, key } }) => [cert, key])])
    },
    onChange: null,
    close() {
      for (const stop of watched) stop()
    },
  }
  return certificates
}

function load(
  pair: CertificatePair,
  minVersion: 'TLSv1.2' | 'TLSv1.3',
  onTrouble: (what: HeadraceError) => void,
): Loaded {
  const cert = read(pair.certificate)
  const key = read(pair.key)
  const certificateName = isText(pair.certificate) ? 'the certificate given as text' : pair.certificate
  const keyName = isText(pair.key) ? 'the key given as text' : pair.key
  const certificate = usable(certificateName, () => new X509Certificate(cert))
  const privateKey = usable(keyName, () => createPrivateKey(key))
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new HeadraceError('config-invalid', `${keyName} is not the key of ${certificateName}`)
  }
  // One id for all contexts: a session may be resumed with any of them.
  const options = { cert, key, minVersion, sessionIdContext: 'headrace' }
  const context = usable(certificateName, () => createSecureContext(options))
  const expires = Date.parse(certificate.validTo)
  if (expires < Date.now()) {
    onTrouble(new HeadraceError('config-invalid', `${certificateName} has expired on ${certificate.validTo}`))
  }
  return { names: namesOf(certificate), expiresAt: expires / 1_000, options, context }
}

/** What `make` makes of the file; what it throws gets the file's name. */
function usable<Made>(file: string, make: () => Made): Made {
  try {
    return make()
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new HeadraceError('config-invalid', `${file} can't be used: ${reason}`, error)
  }
}

function read(pathOrText: string): string {
  if (isText(pathOrText)) return pathOrText
  try {
    return readFileSync(pathOrText, 'utf8')
  } catch (error) {
    throw new HeadraceError(
      'config-invalid',
      `${pathOrText} can't be read: ${(error as NodeJS.ErrnoException).code}`,
      error,
    )
  }
}

function isText(pathOrText: string): boolean {
  return pathOrText.includes('-----BEGIN')
}

/** The DNS names and addresses of a certificate; its common name only if it has no others (RFC 6125 section 6.4.4). */
function namesOf(certificate: X509Certificate): string[] {
  const alternatives = certificate.subjectAltName?.split(', ') ?? []
  const names = alternatives.map((one) => one.replace(/^(DNS|IP Address):/, '').toLowerCase())
  if (names.length > 0) return names
  const [, commonName] = /^CN=(.+)$/m.exec(certificate.subject) ?? []
  return commonName === undefined ? [] : [commonName.toLowerCase()]
}

interface Table {
  readonly first: Loaded
  byName(servername: string): SecureContext | undefined
}

/** Exact names, then wildcards, which stand for one label (RFC 6125 section 6.4.3). */
function tableOf(loaded: readonly Loaded[]): Table {
  const contexts = new Map<string, SecureContext>()
  for (const { names, context } of loaded) {
    for (const name of names) if (!contexts.has(name)) contexts.set(name, context)
  }
  const [first] = loaded
  if (first === undefined) throw new HeadraceError('config-invalid', 'a TLS listener without a certificate')
  return {
    first,
    byName(servername) {
      const name = servername.toLowerCase()
      return contexts.get(name) ?? contexts.get(name.replace(/^[^.]+/, '*'))
    },
  }
}
