// Chromium, as Debian has it, with nothing in it that speaks to anybody but the tests.

import { existsSync } from 'node:fs'
import type { Browser } from 'playwright-core'
import { chromium } from 'playwright-core'
import type { Test } from 'tap'

const CHROMIUM = '/usr/bin/chromium'
const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** For a test's `skip`. Missing, it is skipped by name; but in CI it must not be missing. */
export const withoutChromium =
  existsSync(CHROMIUM) || process.env.CI ? false : `${CHROMIUM} is missing: scripts/install-peers installs it`

/** Closed with its test. */
export async function startChromium(t: Test): Promise<Browser> {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS })
  t.teardown(() => browser.close())
  return browser
}
