// Certificates for tests, made here: an authority, and what it issues.
//
// Node reads NODE_EXTRA_CA_CERTS once, when it starts: scripts/test.mjs makes an authority before the tests run, which all of
// them trust, and says where it is in HEADRACE_TEST_AUTHORITY.

import 'reflect-metadata'
import { webcrypto } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { join } from 'node:path'
import * as x509 from '@peculiar/x509'

x509.cryptoProvider.set(webcrypto as Crypto)

export interface Pem {
  readonly certificate: string
  readonly key: string
}

export interface Authority extends Pem {
  /** A certificate for DNS names and IP addresses, signed by this authority. */
  issue(options: Issue): Promise<Pem>
}

export interface Issue {
  readonly names: readonly string[]
  readonly notBefore?: Date
  readonly notAfter?: Date
}

const EC = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const DAY_MS = 86_400_000

export async function createAuthority(name = 'Headrace test authority'): Promise<Authority> {
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${name}`,
    keys,
    ...validity(),
    signingAlgorithm: EC,
    serialNumber: serial(),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  })
  return authorityOf(certificate, keys.privateKey, await keyPem(keys.privateKey))
}

/** The authority that the process which runs the tests trusts. */
export async function testAuthority(): Promise<Authority> {
  const folder = process.env.HEADRACE_TEST_AUTHORITY
  if (folder === undefined)
    throw new Error('this test needs the test authority: run it with npm test -- FILE')
  const [certificate, key] = await Promise.all(
    ['certificate.pem', 'key.pem'].map((file) => readFile(join(folder, file), 'utf8')),
  )
  const der = x509.PemConverter.decodeFirst(key ?? '')
  const signer = await webcrypto.subtle.importKey('pkcs8', der, EC, true, ['sign'])
  return authorityOf(new x509.X509Certificate(certificate ?? ''), signer as CryptoKey, key ?? '')
}

export async function selfSigned({ names, ...times }: Issue): Promise<Pem> {
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${names[0]}`,
    keys,
    ...validity(times),
    signingAlgorithm: EC,
    serialNumber: serial(),
    extensions: [alternatives(names)],
  })
  return { certificate: certificate.toString('pem'), key: await keyPem(keys.privateKey) }
}

function authorityOf(issuer: x509.X509Certificate, signingKey: CryptoKey, key: string): Authority {
  return {
    certificate: issuer.toString('pem'),
    key,
    async issue({ names, ...times }) {
      const keys = await newKeys()
      const certificate = await x509.X509CertificateGenerator.create({
        subject: `CN=${names[0]}`,
        issuer: issuer.subject,
        publicKey: keys.publicKey,
        signingKey,
        ...validity(times),
        signingAlgorithm: EC,
        serialNumber: serial(),
        extensions: [alternatives(names)],
      })
      return { certificate: certificate.toString('pem'), key: await keyPem(keys.privateKey) }
    },
  }
}

function newKeys(): Promise<CryptoKeyPair> {
  return webcrypto.subtle.generateKey(EC, true, ['sign', 'verify']) as Promise<CryptoKeyPair>
}

async function keyPem(key: CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
}

function alternatives(names: readonly string[]): x509.SubjectAlternativeNameExtension {
  return new x509.SubjectAlternativeNameExtension(
    names.map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value })),
  )
}

function validity({ notBefore, notAfter }: Omit<Issue, 'names'> = {}) {
  return {
    notBefore: notBefore ?? new Date(Date.now() - DAY_MS),
    notAfter: notAfter ?? new Date(Date.now() + 30 * DAY_MS),
  }
}

function serial(): string {
  return Buffer.from(webcrypto.getRandomValues(new Uint8Array(8))).toString('hex')
}
