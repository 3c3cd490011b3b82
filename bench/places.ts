// Where things are. The compiled benchmark runs from build/bench; templates and results stay in bench/.

import { fileURLToPath } from 'node:url'

const ROOT = new URL('../../', import.meta.url)

export const PACKAGE = fileURLToPath(new URL('package.json', ROOT))
/** The product as it is published, not the copy that is compiled with the tests. */
export const PRODUCT = new URL('dist/index.js', ROOT)
/** The same as a program. */
export const PROGRAM = new URL('dist/cli/headrace.js', ROOT)
export const RESULTS = fileURLToPath(new URL('bench/results', ROOT))
/** Configs of the proxies that are not node's. */
export const TEMPLATES = new URL('bench/peers/', ROOT)
/** Of the micro-benchmarks. */
export const BASELINE = fileURLToPath(new URL('bench/baseline.json', ROOT))
export const README = fileURLToPath(new URL('README.md', ROOT))
/** Where the README's pictures are. */
export const PICTURES = fileURLToPath(new URL('docs', ROOT))
