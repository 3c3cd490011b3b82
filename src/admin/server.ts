export interface AdminOptions {
  readonly address: string
  readonly tls: { readonly certificate: string; readonly key: string } | null
  readonly tokens: string | null
}
