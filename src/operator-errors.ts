// The errors that are no connection's, and whoever operates the edge is told of: part of the table in errors.ts.

import type { How, Who } from './end.ts'

export const operatorErrors = {
  'config-invalid': [null, 'operator', 'error', 'the configuration is not valid', 'mend the lines named'],
  'argument-invalid': [
    null,
    'operator',
    'error',
    'an argument is not valid',
    'see the documentation of the call',
  ],
  'listen-failed': [
    null,
    'operator',
    'error',
    'a listener could not be opened',
    'choose another address, or free this one',
  ],
  'process-silent': [
    null,
    'operator',
    'error',
    'a process of this program did not answer',
    'try again, and see its log lines',
  ],
  'user-unavailable': [
    null,
    'operator',
    'error',
    'the program cannot run as the user that the config names',
    'start it as root, or leave `user` and `group` out of the config',
  ],
  'state-locked': [
    null,
    'operator',
    'refused',
    'another process writes to the state directory under the same name',
    'stop the other one, or give this one a stateDirectory of its own',
  ],
  'state-failed': [
    null,
    'operator',
    'error',
    'the state directory cannot be used',
    'make it a folder that headrace may write to, or name another as stateDirectory',
  ],
  'usage-unwritten': [
    null,
    'operator',
    'error',
    'usage could not be written to the state directory',
    'make room, or mend the disk: until then it is kept in memory, and tried again',
  ],
  'usage-damaged': [
    null,
    'operator',
    'error',
    'something in the state directory is not counted as usage',
    'see what it is; a torn line is what a killed process could not finish',
  ],
  'descriptors-exhausted': [
    null,
    'operator',
    'error',
    'no descriptor is free for another connection',
    'raise the limit of open files (ulimit -n, LimitNOFILE of systemd)',
  ],
  'rate-store-failed': [
    null,
    'operator',
    'error',
    'the store of the rates did not answer',
    'mend rateStore, or the way to it',
  ],
  'webhook-failed': [
    null,
    'operator',
    'error',
    'the webhook was not told',
    'mend webhook.url, or what answers there',
  ],
  'engine-unavailable': [
    null,
    'operator',
    'error',
    'the engine that was asked for cannot run here',
    'mend what the reason says, or use `engine: auto`',
  ],
} as const satisfies Record<string, readonly [number | null, Who, How, string, string]>
