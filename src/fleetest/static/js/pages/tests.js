// Tests over time: which are flaky, which are slow, and how each does on each machine.

import { get } from "../api.js";
import { capabilityChoice } from "../components/capability_choice.js";
import { panel, showError } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { matrixView } from "../components/matrix.js";
import { h, replace, setText } from "../dom.js";
import { badge, count, duration, percent, time, tone } from "../format.js";
import { refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

const VIEWS = [["flaky", "Flaky"], ["slow", "Slowest"], ["all", "All tests"], ["matrix", "By hardware"]];

const MATRIX_ROWS = 200;
const ABOUT = {
  flaky: "Tests that both passed and failed. Both verdicts within one run are the proof: the code was the same. Then comes how often a verdict differed from the one before.",
  slow: "By the median of the executions that passed, over all runs of the history.",
  all: "Every test that was ever executed, by name.",
  matrix: "The badge is the last verdict there; below it how many executions passed, and their median duration. Tests with most failures come first.",
};

const nameCell = (test) => h("a", { class: "mono", href: href("tests", test.task_id) }, test.task_id);

/** The last verdicts as a strip of marks, oldest first, with the same in words; `titles` are what each mark says. */
export function strip(verdicts, titles = verdicts) {
  return h("div", { class: "strip", role: "img", "aria-label": verdicts.map((name) => name.replace("_", " ")).join(", ") }, verdicts.map((name, index) => h("span", { class: tone(name), title: titles[index] })));
}

const FLAKY = [
  { key: "name", title: "Test", class: "name", cell: nameCell },
  { key: "same", title: "Same code, both verdicts", number: true, cell: (test) => `${count(test.same_code)} of ${count(test.runs)} runs` },
  { key: "score", title: "Verdict changed", number: true, cell: (test) => percent(test.score) },
  { key: "failed", title: "Failed", number: true, cell: (test) => `${count(test.failed)} of ${count(test.attempts)}` },
  { key: "strip", title: "Last verdicts", cell: (test) => strip(test.verdicts) },
  { key: "last", title: "Last failure", cell: (test) => h("span", { class: "nowrap" }, time(test.last_failed_at)) },
];
const SLOW = [
  { key: "name", title: "Test", class: "name", cell: nameCell },
  { key: "median", title: "Median", number: true, cell: (test) => duration(test.median_s) },
  { key: "p95", title: "95 % take at most", number: true, cell: (test) => duration(test.p95_s) },
  { key: "max", title: "Longest", number: true, cell: (test) => duration(test.max_s) },
  { key: "total", title: "In sum", number: true, cell: (test) => duration(test.total_s) },
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
  const by = capabilityChoice({ label: "Columns of the matrix", chosen: filter.get("by") ?? "worker", onchange: change });
  const about = h("p", { class: "muted" });
  const body = h("div", {});
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Tests"), h("div", { class: "filters actions" }, text, by)), h("div", { class: "tabbed" }, tabs, about), body);
  let view = filter.get("view") ?? "flaky";
  const nothing = () => emptyState("Nothing recorded yet", "The history fills with every run. Come back after the first one.");
  const tables = { flaky: table(FLAKY, "Flaky tests"), slow: table(SLOW, "Slowest tests"), all: table(ALL, "Tests") };

  function table(columns, caption) {
    return makeTable(columns, { caption, rowKey: (test) => test.task_id, empty: caption === "Flaky tests" ? emptyState("No flaky test is known", "A test is listed here when the same test both passed and failed.") : nothing() });
  }

  function drawTabs() {
    replace(tabs, VIEWS.map(([name, title]) => h("button", { type: "button", "aria-pressed": String(view === name), class: view === name ? "primary" : null, onclick: () => choose(name) }, title)));
    by.hidden = view !== "matrix";
    setText(about, ABOUT[view]);
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
    if (wanted === "matrix") return [wanted, await get("/history/matrix", { by: by.value, text: query.text, limit: MATRIX_ROWS }, signal)];
    const where = { flaky: "/history/flakiest", slow: "/history/slowest", all: "/history/tests" }[wanted];
    return [wanted, await get(where, query, signal)];
  }

  function show([shown, answer]) {
    if (shown !== view) return;
    if (shown === "matrix") {
      replace(body, panel(`Test by ${answer.by}`, { isFlush: true, end: answer.rows.length === MATRIX_ROWS && h("span", { class: "muted" }, `the ${count(MATRIX_ROWS)} with most failures`) }, answer.rows.length ? matrixView(answer, (name) => href("tests", name)) : nothing()));
      return;
    }
    const made = tables[shown];
    if (!made.element.isConnected) replace(body, h("section", { class: "panel" }, made.element));
    made.show(answer.items);
  }

  const load = refreshing(fetchView, { pause_s: 0.3, shown: show, failed: (error) => showError(body, error) });
  drawTabs();
  return { element, title: "Tests", close: load.close };
}
