/** The words don't make sense: exit code 2. */
export class UsageError extends Error {}
