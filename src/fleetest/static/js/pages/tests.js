// Tests over time: which are flaky, which are slow, and how each does on each machine.

import { get, getAll } from "../api.js";
import { panel, showError } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { matrixView } from "../components/matrix.js";
import { h, replace } from "../dom.js";
import { badge, count, duration, percent, time, tone } from "../format.js";
import { refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

const VIEWS = [["flaky", "Flaky"], ["slow", "Slowest"], ["all", "Find a test"], ["matrix", "By hardware"]];

const nameCell = (test) => h("a", { class: "mono", href: href("tests", test.task_id) }, test.task_id);

/** The last verdicts as a strip of marks, oldest first, with the same in words. */
export function strip(verdicts) {
  return h("div", { class: "strip", role: "img", "aria-label": verdicts.map((name) => name.replace("_", " ")).join(", ") }, verdicts.map((name) => h("span", { class: tone(name), title: name })));
}

const FLAKY = [
  { key: "name", title: "Test", class: "name", cell: nameCell },
  { key: "score", title: "Changes", number: true, cell: (test) => percent(test.score) },
  { key: "same", title: "Both verdicts in one run", number: true, cell: (test) => count(test.same_code) },
  { key: "failed", title: "Failed", number: true, cell: (test) => `${count(test.failed)} / ${count(test.attempts)}` },
  { key: "strip", title: "Last verdicts", cell: (test) => strip(test.verdicts) },
  { key: "last", title: "Last failure", cell: (test) => h("span", { class: "nowrap" }, time(test.last_failed_at)) },
];
const SLOW = [
  { key: "name", title: "Test", class: "name", cell: nameCell },
  { key: "median", title: "Median", number: true, cell: (test) => duration(test.median_s) },
  { key: "p95", title: "95 %", number: true, cell: (test) => duration(test.p95_s) },
  { key: "max", title: "Longest", number: true, cell: (test) => duration(test.max_s) },
  { key: "total", title: "All together", number: true, cell: (test) => duration(test.total_s) },
  { key: "attempts", title: "Executions", number: true, cell: (test) => count(test.attempts) },
];
const ALL = [
  { key: "verdict", title: "Last", cell: (test) => badge(test.last_verdict) },
  { key: "name", title: "Test", class: "name", cell: nameCell },
  { key: "attempts", title: "Executions", number: true, cell: (test) => count(test.attempts) },
  { key: "failed", title: "Failed", number: true, cell: (test) => count(test.failed) },
  { key: "at", title: "Last run", cell: (test) => h("span", { class: "nowrap" }, time(test.last_run_at)) },
];

export function testsPage(filter) {
  const tabs = h("div", { class: "filters", role: "group", "aria-label": "View" });
  const text = h("input", { type: "search", placeholder: "Part of the test's name", "aria-label": "Filter tests", value: filter.get("text") ?? "", oninput: change });
  const by = h("select", { "aria-label": "Columns of the matrix", onchange: change }, ["worker", ...(filter.get("by") ? [filter.get("by")] : [])].map((name) => h("option", { value: name, selected: name === filter.get("by") }, name)));
  const body = h("div", {});
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Tests"), h("div", { class: "filters actions" }, text, by)), tabs, body);
  let view = filter.get("view") ?? "flaky";
  const nothing = () => emptyState("Nothing recorded yet", "The history fills with every run. Come back after the first one.");
  const tables = { flaky: table(FLAKY, "Flaky tests"), slow: table(SLOW, "Slowest tests"), all: table(ALL, "Tests") };

  function table(columns, caption) {
    return makeTable(columns, { caption, rowKey: (test) => test.task_id, empty: caption === "Flaky tests" ? emptyState("No flaky test is known", "A test is listed here when the same test both passed and failed.") : nothing() });
  }

  /** What machines of the fleet are told apart by; the one of the link stays, even if nobody has it now. */
  async function offerCapabilities() {
    const workers = await getAll("/workers").catch(() => []);
    const names = new Set(workers.flatMap((worker) => Object.keys(worker.attributes)));
    const known = new Set([...by.options].map((option) => option.value));
    by.append(...[...names].filter((name) => !known.has(name)).sort().map((name) => h("option", { value: name }, name)));
  }

  function drawTabs() {
    replace(tabs, VIEWS.map(([name, title]) => h("button", { type: "button", "aria-pressed": String(view === name), class: view === name ? "primary" : null, onclick: () => choose(name) }, title)));
    by.hidden = view !== "matrix";
  }

  function choose(name) {
    view = name;
    change();
  }

  function change() {
    setFilter({ view: view === "flaky" ? "" : view, text: text.value, by: view === "matrix" ? by.value : "" });
    drawTabs();
    load.again();
  }

  async function fetchView(signal) {
    const wanted = view;
    const query = { text: text.value.trim(), limit: 200 };
    if (wanted === "matrix") return [wanted, await get("/history/matrix", { by: by.value, text: query.text, limit: 200 }, signal)];
    const where = { flaky: "/history/flakiest", slow: "/history/slowest", all: "/history/tests" }[wanted];
    return [wanted, await get(where, query, signal)];
  }

  function show([shown, answer]) {
    if (shown !== view) return;
    if (shown === "matrix") {
      replace(body, panel(`Test by ${answer.by}`, { isFlush: true }, answer.rows.length ? matrixView(answer, (name) => href("tests", name)) : nothing()));
      return;
    }
    const made = tables[shown];
    if (!made.element.isConnected) replace(body, h("section", { class: "panel" }, made.element));
    made.show(answer.items);
  }

  const load = refreshing(fetchView, { pause_s: 0.3, shown: show, failed: (error) => showError(body, error) });
  drawTabs();
  offerCapabilities();
  return { element, title: "Tests", close: load.close };
}
