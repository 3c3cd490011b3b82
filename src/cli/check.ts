// `headrace check`: says all that is wrong with a config and the files that it names.

import { checkFiles } from '../process/check-files.ts'
import { complain, load } from './config.ts'

export async function check(file: string): Promise<number> {
  const config = await load(file)
  if (config === null) return 1
  const problems = await checkFiles(config)
  if (problems.length > 0) return complain(problems, file)
  const { listeners, edge } = config
  process.stdout.write(`${file}: ok, ${count(listeners, 'listener')}, ${count(edge.services, 'service')}\n`)
  return 0
}

function count(items: readonly unknown[], word: string): string {
  return `${items.length} ${word}${items.length === 1 ? '' : 's'}`
}
