// Where the page is: the part of the address after #, as path and filter. A link keeps both.

export function place() {
  const hash = location.hash.replace(/^#/, "");
  const cut = hash.indexOf("?");
  const path = cut < 0 ? hash : hash.slice(0, cut);
  return { path: path || "/", filter: new URLSearchParams(cut < 0 ? "" : hash.slice(cut + 1)) };
}

/** The address of a page: href("runs", id, "tasks", name, { status: "failed" }); parts may contain anything. */
export function href(...parts) {
  const filter = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value)).toString();
  return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}${query ? `?${query}` : ""}`;
}

/** Changes the filter in the address without a step in the history; tells the page through `hashchange`'s path. */
export function setFilter(changes) {
  const { path, filter } = place();
  for (const [name, value] of Object.entries(changes)) {
    if (value) filter.set(name, value);
    else filter.delete(name);
  }
  const query = filter.toString();
  history.replaceState(null, "", `#${path}${query ? `?${query}` : ""}`);
  return filter;
}
