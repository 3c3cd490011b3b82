// What a page of the documentation shows: files, by the name in their first line, and commands, which are run as they stand.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { PROGRAM } from './program.ts'

export interface Page {
  /** Each code block that begins with a comment of nothing but a file's name. */
  readonly files: Readonly<Record<string, string>>
  /** The lines of all blocks for a shell. */
  readonly commands: readonly string[]
}

/** `path`: from the root of the project. */
export function readPage(path: string): Page {
  const text = readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8')
  const files: Record<string, string> = {}
  const commands: string[] = []
  for (const [, language, block = ''] of text.matchAll(/^```(.*)\n([\s\S]*?)^```$/gm)) {
    const [, name] = /^(?:#|\/\/) (\S+\.\w+)\n/.exec(block) ?? []
    if (language === 'sh') commands.push(...block.trimEnd().split('\n'))
    else if (name !== undefined && name in files) throw new Error(`${path} has two files ${name}`)
    else if (name !== undefined) files[name] = block
  }
  return { files, commands }
}

/** The text with each of these in the place of what the page has: ports that are free, times that a test can wait for. */
export function adapted(text: string, changes: Readonly<Record<string, string>>): string {
  const found = new Set<string>()
  const words = Object.keys(changes).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
  const result = text.replace(new RegExp(words.join('|'), 'g'), (word) => {
    found.add(word)
    return changes[word] ?? ''
  })
  const missing = Object.keys(changes).filter((word) => !found.has(word))
  if (missing.length > 0) throw new Error(`the page has no ${missing.join(', ')}`)
  return result
}

/** A shell in this folder, in which `npx headrace` is what was built. Resolves with what a line prints; throws if it fails. */
export function openShell(t: Test, folder: string): (line: string) => Promise<string> {
  // tap would load its own modules into every node.
  const { NODE_OPTIONS: _, ...environment } = process.env
  const shell = spawn('bash', { cwd: folder, env: environment, stdio: 'pipe' })
  let complaints = ''
  shell.stderr.on('data', (chunk: Buffer) => {
    complaints += chunk
  })
  t.teardown(() => shell.kill())
  const said = createInterface({ input: shell.stdout })[Symbol.asyncIterator]()
  shell.stdin.write(`npx() { shift; '${process.execPath}' '${PROGRAM}' "$@"; }\n`)
  return async (line) => {
    shell.stdin.write(`${line}\nprintf '\\n%s\\n' "status $?"\n`)
    let text = ''
    for (;;) {
      const { value, done } = await said.next()
      if (done === true) throw new Error(`the shell has ended: ${line}`)
      if (value === 'status 0') return text.trim()
      if (value.startsWith('status ')) throw new Error(`${line}: ${value}: ${complaints}`)
      text += `${value}\n`
    }
  }
}
