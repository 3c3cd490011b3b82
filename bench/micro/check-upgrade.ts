// The rules of the handshake: what every request is checked for, and what an upgrade is.

import { checkUpgrade } from '../../src/head/handshake.ts'
import { checkRequest } from '../../src/head/request.ts'
import type { Micro } from './micro.ts'
import { request } from './request.ts'

export const checks: readonly Micro[] = [
  {
    name: 'check request and upgrade',
    run() {
      checkUpgrade(checkRequest(request).head)
    },
  },
]
