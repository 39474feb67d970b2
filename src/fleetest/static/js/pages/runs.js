// All runs, live and past.

import { get } from "../api.js";
import { progressBar, showError, verdictText } from "../components/panel.js";
import { emptyState, makeTable } from "../components/table.js";
import { h, replace } from "../dom.js";
import { badge, count, duration, time } from "../format.js";
import { refreshing } from "../live.js";
import { href, setFilter } from "../place.js";

export function runState(run) {
  if (run.is_live) return badge(run.state === "cancelling" ? "cancelled" : "running", run.state);
  if (run.outcome === "finished") return run.is_success ? badge("passed", "passed") : badge("failed", "failed");
  return badge("cancelled", run.outcome ?? "unfinished");
}

const COLUMNS = [
  { key: "state", title: "State", cell: runState },
  { key: "title", title: "Run", class: "name", cell: (run) => h("div", {}, h("a", { href: href("runs", run.run_id) }, run.title || run.run_id), h("div", { class: "muted mono" }, run.run_id.slice(0, 12))) },
  { key: "owner", title: "Owner", cell: (run) => run.owner || "–" },
  { key: "tests", title: "Tests", number: true, cell: (run) => count(run.tasks) },
  { key: "verdicts", title: "Verdicts", class: "name", cell: (run) => h("div", { class: "progress-box" }, progressBar(run.counts, run.tasks, run.states.running), h("div", {}, verdictText(run.counts))) },
  { key: "duration", title: "Duration", number: true, cell: (run) => h("span", { class: "nowrap" }, duration(run.duration_s)) },
  { key: "submitted", title: "Started", cell: (run) => h("span", { class: "nowrap" }, time(run.submitted_at)) },
];

const PAGE = 100;
const STATES = [
  ["", "All runs", {}],
  ["live", "In progress", { state: "live" }],
  ["finished", "Finished", { state: "finished", outcome: "finished" }],
  ["cancelled", "Cancelled", { state: "finished", outcome: "cancelled" }],
  ["abandoned", "Abandoned", { state: "finished", outcome: "abandoned" }],
];

export function runsPage(filter) {
  const state = h("select", { "aria-label": "Which runs", onchange: () => change({ state: state.value }) }, STATES.map(([value, title]) => h("option", { value, selected: value === (filter.get("state") ?? "") }, title)));
  const text = h("input", { type: "search", placeholder: "Command or owner", "aria-label": "Filter runs", value: filter.get("text") ?? "", oninput: () => change({ text: text.value }) });
  const table = makeTable(COLUMNS, {
    caption: "Runs",
    rowKey: (run) => run.run_id,
    empty: emptyState("No such run", "Without a filter: runs appear here when they are submitted:", h("code", {}, `pytest --fleet ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`)),
  });
  const holder = h("div", {}, table.element);
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Runs"), h("div", { class: "filters actions" }, text, state)), h("section", { class: "panel" }, holder));
  let pages = [];

  function change(changes) {
    setFilter(changes);
    pages = [];
    list.again();
  }

  function query() {
    const [, , wanted] = STATES.find(([value]) => value === state.value) ?? STATES[0];
    return { text: text.value.trim(), limit: PAGE, ...wanted };
  }

  async function load(signal) {
    const asked = query();
    return [asked, await get("/runs", asked, signal)];
  }

  async function more() {
    const last = pages.at(-1);
    if (!last?.next_cursor) return;
    const page = await get("/runs", { ...query(), cursor: last.next_cursor }).catch(() => null);
    if (!page || pages.at(-1) !== last) return;
    pages.push(page);
    draw();
  }

  function show([asked, first]) {
    if (JSON.stringify(asked) !== JSON.stringify(query())) return;
    // Later pages stay where they are: a run that is new at the top pushes nothing out of view.
    const known = new Set(first.items.map((run) => run.run_id));
    const pushedOut = pages.length > 1 ? pages[0].items.filter((run) => !known.has(run.run_id)) : [];
    pages = pages.length > 1 ? [{ items: [...first.items, ...pushedOut], next_cursor: pages[0].next_cursor }, ...pages.slice(1)] : [first];
    draw();
  }

  function draw() {
    if (!table.element.isConnected) replace(holder, table.element);
    table.show(pages.flatMap((page) => page.items), { loadMore: pages.at(-1)?.next_cursor ? more : null });
  }

  const list = refreshing(load, { topics: ["runs"], pause_s: 2, shown: show, failed: (error) => showError(holder, error) });
  return { element, title: "Runs", close: list.close };
}
