// Who may do what. A role has all that the roles before it have.
//
//   user       read
//   engineer   switch WebSockets on and off
//   superuser  end tunnels, workers and the program; reload

export const ROLES = ['user', 'engineer', 'superuser'] as const

export type Role = (typeof ROLES)[number]

export function mayDo(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed)
}
