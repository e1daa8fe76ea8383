// Elements without markup: whatever text comes in stays text.

/** An element with attributes and children; a string becomes a text node. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Show `text` there; what has not changed is left alone, so that nothing is read out twice. */
export function show(id, text) {
  const place = byId(id);
  if (place.textContent !== String(text)) place.textContent = text;
}

/**
 * Make `parent` have one child for each item, made by `make(item)`. A child whose item has not changed stays the same
 * element: whoever has it focused, or is reading it, is not disturbed.
 */
export function fill(parent, items, make) {
  const known = new Map([...parent.children].map((child) => [child.dataset.item, child]));
  const wanted = items.map((item) => {
    const said = JSON.stringify(item);
    const child = known.get(said) ?? make(item);
    known.delete(said);
    child.dataset.item = said;
    return child;
  });
  known.forEach((child) => child.remove());
  wanted.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
}

/** A link to a run's page. */
export function runLink(id) {
  return el("a", { href: `/runs/${encodeURIComponent(id)}`, title: id }, el("code", {}, id.slice(0, 8)));
}
