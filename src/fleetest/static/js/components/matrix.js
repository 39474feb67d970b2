// Test by hardware: one row a test, one column a machine or value, the last verdict and the counts in each cell.

import { h } from "../dom.js";
import { badge, duration } from "../format.js";

export function matrixView(matrix, linkTo) {
  const cells = new Map(matrix.cells.map((cell) => [`${matrix.rows.indexOf(cell.row)} ${matrix.columns.indexOf(cell.column)}`, cell]));
  return h(
    "div",
    { class: "table-wrap tall", tabindex: "0", role: "region", "aria-label": `Test by ${matrix.by}` },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Test"), matrix.columns.map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        matrix.rows.map((row, line) =>
          h("tr", {}, h("td", { class: "name" }, h("a", { class: "mono", href: linkTo(row) }, row)), matrix.columns.map((_, column) => h("td", {}, cellView(cells.get(`${line} ${column}`))))),
        ),
      ),
    ),
  );
}

function cellView(cell) {
  if (!cell) return h("span", { class: "muted" }, "–");
  const all = cell.passed + cell.failed + cell.other;
  const told = h("span", { class: cell.failed ? "bad" : null }, `${cell.passed} of ${all} passed`);
  return h("div", {}, badge(cell.last_verdict), h("div", { class: "muted nowrap" }, told, cell.median_s === null ? "" : `, ${duration(cell.median_s)}`));
}
