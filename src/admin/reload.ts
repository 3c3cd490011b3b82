// The config is read again.

import { entry } from '../errors.ts'
import { problem } from './problem.ts'
import type { Route } from './route.ts'
import { route } from './route.ts'
import { noQuery, nothing, reloaded } from './schemas.ts'

export const reloadRoute: Route = route({
  method: 'POST',
  path: '/reload',
  role: 'superuser',
  dialect: problem,
  summary:
    'Read config, handlers, certificates and tokens again: all of it takes effect, or nothing (422, with every problem)',
  query: noQuery,
  body: nothing,
  answers: { 200: { what: 'It has taken effect', schema: reloaded } },
  async handle({ operations, changed }) {
    const done = await operations.reload()
    const { file } = done
    if (done.isDone) {
      const { changes, durationMs } = done
      changed('config', file, null, changes, 0)
      return { status: 200, json: { file, changes, durationMs } }
    }
    const { problems } = done
    const count = problems.length === 1 ? 'one problem' : `${problems.length} problems`
    const detail = `${entry('config-invalid').sentence}, and nothing has changed: ${count} in ${file}`
    return { status: 422, code: 'config-invalid', detail, errors: problems }
  },
})
