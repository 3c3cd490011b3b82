// How far a program is with coming into charge, and with leaving.

/** Of the releases that run, one is in charge. */
export interface Standing {
  /** Its workers are to accept: shortly before it is in charge. */
  isAccepting: boolean
  isInCharge: boolean
  /** It was in charge, and a newer one is now. */
  isSucceeded: boolean
}
