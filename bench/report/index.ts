// `npm run bench:report`: of each scenario the newest results in bench/results/ (or those of the files named), as one HTML
// page, as the README's pictures in docs/, and as the README's table. Runs of --smoke are left out.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PICTURES, README, RESULTS } from '../places.ts'
import { pageOf } from './page.ts'
import { picturesOf } from './pictures.ts'
import { withFigures } from './readme.ts'
import type { Report } from './report.ts'
import { filesOfRuns, read } from './report.ts'

/** Each report with the results of those scenarios that no newer one has. */
function newestOfEach(files: readonly string[]): Report[] {
  const seen = new Set<string>()
  return files.flatMap((file) => {
    const report = read(file)
    const results = report.results.filter(({ scenario }) => !seen.has(scenario))
    for (const { scenario } of results) seen.add(scenario)
    return results.length === 0 ? [] : [{ ...report, results }]
  })
}

const named = process.argv.slice(2)
const reports = newestOfEach(named.length > 0 ? named : filesOfRuns())
if (reports.length === 0) {
  console.error('no results in bench/results/: npm run bench')
  process.exitCode = 1
} else {
  const pictures = picturesOf(reports.flatMap(({ results }) => results))
  const page = join(RESULTS, 'report.html')
  writeFileSync(page, pageOf(reports, pictures))
  mkdirSync(PICTURES, { recursive: true })
  for (const { name, svg } of pictures) writeFileSync(join(PICTURES, `${name}.svg`), `${svg}\n`)
  writeFileSync(README, withFigures(readFileSync(README, 'utf8'), reports, pictures))
  console.log([page, ...pictures.map(({ name }) => `docs/${name}.svg`), 'README.md'].join('\n'))
}
