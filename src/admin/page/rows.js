// Elements, and rows of tables, which stay as long as what they show: whoever has the focus keeps it.
// What comes from the edge is shown as text and never becomes markup.

export const $ = (id) => document.getElementById(id)

export function make(name, className = '', text = '') {
  const element = document.createElement(name)
  if (className !== '') element.className = className
  if (text !== '') element.textContent = text
  return element
}

export function keep(body, items, keyOf, create, update) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]))
  let before = null
  for (const item of items) {
    const key = keyOf(item)
    const row = known.get(key) ?? create(item)
    known.delete(key)
    row.dataset.key = key
    row.setAttribute('role', 'row')
    const next = before === null ? body.firstElementChild : before.nextElementSibling
    if (row !== next) body.insertBefore(row, next)
    update(row, item)
    before = row
  }
  for (const row of known.values()) row.remove()
}

/** Columns: [label, class]; the first is the row's head. */
export function makeRow(columns, className = '') {
  const row = make('tr', className)
  for (const [at, [label, kind = '']] of columns.entries()) {
    const cell = make(at === 0 ? 'th' : 'td', kind)
    cell.setAttribute('role', at === 0 ? 'rowheader' : 'cell')
    if (at === 0) cell.scope = 'row'
    else if (label !== '') cell.dataset.label = label
    row.append(cell)
  }
  return row
}

export function put(cell, text, isZero = false) {
  if (cell.textContent !== text) cell.textContent = text
  cell.classList.toggle('zero', isZero)
}
