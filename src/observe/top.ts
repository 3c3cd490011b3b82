// The few items of many that have the highest rank, seen one by one.

export interface Top<Item> {
  offer(item: Item): void
  /** The highest first; of equals those that were offered first. */
  items(): Item[]
}

export function topOf<Item>(count: number, rankOf: (item: Item) => number): Top<Item> {
  const items: Item[] = []
  const ranks: number[] = []
  return {
    offer(item) {
      const rank = rankOf(item)
      // Nearly all stop here.
      if (ranks.length === count && rank <= (ranks[count - 1] as number)) return
      let at = ranks.length
      while (at > 0 && (ranks[at - 1] as number) < rank) at -= 1
      items.splice(at, 0, item)
      ranks.splice(at, 0, rank)
      if (ranks.length > count) {
        items.pop()
        ranks.pop()
      }
    },
    items: () => [...items],
  }
}
