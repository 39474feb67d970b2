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
  { key: "verdicts", title: "Verdicts", class: "name", cell: (run) => h("div", {}, progressBar(run.counts, run.tasks, run.states.running), h("div", {}, verdictText(run.counts))) },
  { key: "duration", title: "Duration", number: true, cell: (run) => h("span", { class: "nowrap" }, duration(run.duration_s)) },
  { key: "submitted", title: "Started", cell: (run) => h("span", { class: "nowrap" }, time(run.submitted_at)) },
];

export function runsPage(filter) {
  const text = h("input", { type: "search", placeholder: "Part of the command or owner", "aria-label": "Filter runs", value: filter.get("text") ?? "", oninput: () => change({ text: text.value }) });
  const table = makeTable(COLUMNS, {
    caption: "Runs",
    rowKey: (run) => run.run_id,
    empty: emptyState("No runs", "Runs appear here when they are submitted:", h("code", {}, `pytest --fleet ${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`)),
  });
  const holder = h("div", {}, table.element);
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Runs"), h("div", { class: "filters actions" }, text)), h("section", { class: "panel" }, holder));
  let pages = [];

  function change(changes) {
    setFilter(changes);
    list.again();
  }

  async function load(signal) {
    const first = await get("/runs", { limit: 100 }, signal);
    pages = [first];
    return first;
  }

  async function more() {
    const last = pages.at(-1);
    if (!last?.next_cursor) return;
    const page = await get("/runs", { limit: 100, cursor: last.next_cursor }).catch(() => null);
    if (!page || pages.at(-1) !== last) return;
    pages.push(page);
    show();
  }

  function show() {
    const wanted = text.value.trim().toLowerCase();
    const rows = pages.flatMap((page) => page.items).filter((run) => !wanted || `${run.title} ${run.owner} ${run.run_id}`.toLowerCase().includes(wanted));
    if (!table.element.isConnected) replace(holder, table.element);
    table.show(rows, { loadMore: pages.at(-1)?.next_cursor ? more : null });
  }

  const list = refreshing(load, { topics: ["runs"], pause_s: 2, shown: show, failed: (error) => showError(holder, error) });
  return { element, title: "Runs", close: list.close };
}
