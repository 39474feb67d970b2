// The only place where elements are made. Everything shown is text: names of tests, workers and runs are hostile.

const URL_ATTRIBUTES = new Set(["href", "src", "action"]);

/**
 * Makes an element: h("a", { href: "#/runs", class: "link", onclick: handler }, "text", child, [children]).
 * Attributes that are null, undefined or false are left out; functions become listeners; data-* and aria-* as written.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "class") element.className = value;
    else if (URL_ATTRIBUTES.has(name)) setUrl(element, name, String(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function setUrl(element, name, value) {
  // Links lead inside this page or to its own origin, whatever a name contains.
  const url = new URL(value, location.href);
  if (url.origin === location.origin || (name === "href" && url.protocol === "blob:")) element.setAttribute(name, value);
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

/** Sets the text only if it changed, so that nothing flickers and selections stay. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

export function replace(element, ...children) {
  const fragment = document.createDocumentFragment();
  append(fragment, children);
  element.replaceChildren(fragment);
}

/**
 * Shows these children and keeps those that are there already, so that what did not change keeps focus and selection.
 * For what is drawn anew each time, not for elements that are kept elsewhere.
 */
export function renew(element, ...children) {
  const fragment = document.createDocumentFragment();
  append(fragment, children);
  const present = [...element.childNodes];
  const wanted = [...fragment.childNodes];
  wanted.forEach((node, index) => {
    if (index >= present.length) element.append(node);
    else if (!present[index].isEqualNode(node)) present[index].replaceWith(node);
  });
  for (const surplus of present.slice(wanted.length)) surplus.remove();
}

/** Makes `elements` the children of `parent`; those that stay in their order are not touched. */
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let before = parent.firstChild;
  for (const element of elements) {
    if (element === before) before = before.nextSibling;
    else parent.insertBefore(element, before);
  }
}

/**
 * Keeps the children of `parent` in step with `items`, reusing elements by key: make(item) returns an element,
 * update(element, item) brings it up to date.
 */
export function keyed(parent, items, key, make, update) {
  const known = parent.keyedChildren ?? (parent.keyedChildren = new Map());
  const wanted = new Map();
  for (const item of items) {
    const id = key(item);
    const element = known.get(id) ?? make(item);
    update(element, item);
    known.set(id, element);
    wanted.set(id, element);
  }
  for (const id of known.keys()) if (!wanted.has(id)) known.delete(id);
  arrange(parent, [...wanted.values()]);
}

let pending = new Set();
let isScheduled = false;

/** Calls `render` once before the next frame, however often it is asked for. */
export function soon(render) {
  pending.add(render);
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    const due = pending;
    pending = new Set();
    isScheduled = false;
    for (const each of due) each();
  });
}
