// Which engine of Headrace is under test.

export const HEADRACE_ENGINE = 'stream'
