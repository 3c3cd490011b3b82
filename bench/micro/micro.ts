// A micro-benchmark: one function of the product, alone.

export interface Micro {
  readonly name: string
  run(): void | Promise<void>
}
