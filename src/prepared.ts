/** A change that is ready and not in effect yet. One of the two is called, once; neither throws. */
export interface Prepared {
  /** In effect when it returns. */
  commit(): void
  /** As if it had never been asked for. */
  drop(): void
}
