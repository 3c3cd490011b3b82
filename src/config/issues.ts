// From what zod finds to problems with a reason and a remedy.

import type { z } from 'zod'
import type { Complain, Path } from './problems.ts'
import { suggestion } from './problems.ts'

type Issue = z.core.$ZodIssue

export function tellIssues(issues: readonly Issue[], complain: Complain, above: Path = []): void {
  for (const issue of issues) tellIssue(issue, [...above, ...(issue.path as Path)], complain)
}

function tellIssue(issue: Issue, path: Path, complain: Complain): void {
  const nested = nestedIssues(issue)
  if (nested !== undefined) tellIssues(nested, complain, path)
  else if (issue.code === 'unrecognized_keys') tellKeys(issue.keys, issue.message, path, complain)
  else {
    const [reason = '', remedy = 'see the config reference'] = issue.message.split('\n')
    complain(path, reason, remedy)
  }
}

function nestedIssues(issue: Issue): readonly Issue[] | undefined {
  if (issue.code === 'invalid_key') return issue.issues
  return issue.code === 'invalid_union' ? meantBranch(issue.errors) : undefined
}

/** `known`: the keys that there are. */
function tellKeys(keys: readonly string[], known: string, path: Path, complain: Complain): void {
  for (const key of keys) {
    complain([...path, key], `unknown key${suggestion(key, known.split(', '))}`, `the keys here are ${known}`)
  }
}

/** Of the forms that a value may have, the one that it has, if there is one: its issues are more precise. */
function meantBranch(branches: readonly (readonly Issue[])[]): readonly Issue[] | undefined {
  const isOther = ({ code, path }: Issue) => path.length === 0 && code !== 'unrecognized_keys'
  const [meant, ...more] = branches.filter((issues) => !issues.some(isOther))
  return more.length === 0 ? meant : undefined
}
