// A table that shows any number of rows: only those in view are elements. Sorting and filtering are the caller's.

import { arrange, h, replace, soon } from "../dom.js";

const ROW_HEIGHT = 37;
const OVERSCAN = 12;

/**
 * columns: [{ key, title, cell(row) -> node or text, number?, sortable?, class? }]
 * options: caption (said to screen readers), empty (node), onSort(key), isTall, rowKey(row).
 * Returns { element, view(), show(rows, { sort, loadMore }) }.
 */
export function makeTable(columns, { caption, empty, onSort = null, rowKey = (row) => row.id, isTall = true }) {
  const head = h("tr", {});
  const body = h("tbody", {});
  const table = h("table", { class: "cards" }, h("caption", { class: "visually-hidden" }, caption), h("thead", {}, head), body);
  const wrap = h("div", { class: `table-wrap${isTall ? " tall" : ""}`, tabindex: "0", role: "region", "aria-label": caption }, table);
  const element = h("div", {}, wrap, empty);
  let rows = [];
  let more = null;
  let measured = ROW_HEIGHT;
  let shown = "";
  let headMark = "";
  const cache = new Map();

  function drawHead(sort) {
    const mark = `${sort?.key} ${sort?.isDescending}`;
    if (mark === headMark) return;
    headMark = mark;
    const focused = [...head.children].findIndex((each) => each.contains(document.activeElement));
    replace(
      head,
      columns.map((column) => {
        const direction = sort?.key === column.key ? (sort.isDescending ? "descending" : "ascending") : null;
        const arrow = direction ? (sort.isDescending ? "↓" : "↑") : "";
        const label = column.sortable && onSort
          ? h("button", { type: "button", onclick: () => onSort(column.key) }, column.title, h("span", { "aria-hidden": "true", class: "sort-arrow" }, arrow))
          : column.title;
        return h("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": direction }, label);
      }),
    );
    head.children[focused]?.querySelector("button")?.focus();
  }

  function rowElement(row) {
    const key = rowKey(row);
    const known = cache.get(key);
    if (known && known.row === row) return known.element;
    const cells = columns.map((column) => h("td", { class: [column.number ? "number" : "", column.class ?? ""].join(" ").trim() || null, "data-title": column.title }, column.cell(row)));
    // Only what changed is exchanged: a button that somebody is about to press stays.
    if (known) cells.forEach((cell, index) => known.element.children[index].isEqualNode(cell) || known.element.children[index].replaceWith(cell));
    const element = known?.element ?? h("tr", {}, cells);
    cache.set(key, { row, element });
    return element;
  }

  function spacer(height) {
    return h("tr", { "aria-hidden": "true", class: "spacer" }, h("td", { colspan: columns.length }));
  }

  function draw() {
    const view = wrap.clientHeight || 600;
    const isSmall = rows.length <= 60;
    const first = isSmall ? 0 : Math.max(0, Math.floor(wrap.scrollTop / measured) - OVERSCAN);
    const last = isSmall ? rows.length : Math.min(rows.length, first + Math.ceil(view / measured) + 2 * OVERSCAN);
    const mark = `${first}:${last}`;
    const visible = rows.slice(first, last);
    const elements = visible.map(rowElement);
    if (mark === shown && elements.every((each, index) => body.children[index + (first ? 1 : 0)] === each)) return;
    shown = mark;
    const before = first ? spacer() : null;
    const after = last < rows.length ? spacer() : null;
    if (before) before.firstChild.style.height = `${first * measured}px`;
    if (after) after.firstChild.style.height = `${(rows.length - last) * measured}px`;
    arrange(body, [before, ...elements, after].filter(Boolean));
    if (elements.length > 20 && !isSmall) measured = Math.max(20, elements[0].getBoundingClientRect().height || measured);
    if (cache.size > 2000) {
      const keep = new Set(visible.map(rowKey));
      for (const key of cache.keys()) if (!keep.has(key)) cache.delete(key);
    }
    if (more && last >= rows.length - OVERSCAN) {
      const load = more;
      more = null;
      load();
    }
  }

  wrap.addEventListener("scroll", () => soon(draw), { passive: true });

  return {
    element,
    /** Numbers of the first row in view and of the one after the last. */
    view() {
      const first = Math.max(0, Math.floor(wrap.scrollTop / measured));
      return [first, first + Math.ceil((wrap.clientHeight || 600) / measured) + 1];
    },
    show(next, { sort = null, loadMore = null } = {}) {
      rows = next;
      more = loadMore;
      drawHead(sort);
      wrap.hidden = rows.length === 0;
      if (empty) empty.hidden = rows.length !== 0;
      table.setAttribute("aria-rowcount", String(rows.length + 1));
      shown = "";
      draw();
    },
  };
}

/** What stands in place of a table without rows: what that means, and what to do. */
export function emptyState(title, ...hints) {
  return h("div", { class: "empty" }, h("strong", {}, title), hints.map((hint) => (hint instanceof Node ? hint : h("span", {}, hint))));
}
