// What waits, and why.

import { get } from "../api.js";
import { makeTiles, panel, showError } from "../components/panel.js";
import { emptyState } from "../components/table.js";
import { h, replace } from "../dom.js";
import { count } from "../format.js";
import { live, refreshing } from "../live.js";
import { href } from "../place.js";

export function queuePage() {
  const tiles = makeTiles();
  const groups = h("div", {});
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Queue")), tiles.element, panel("Why tests wait", { isFlush: true }, groups));
  const isOpen = new Set();

  function show(queue) {
    const status = live.status;
    tiles.show([
      { key: "waiting", label: "Waiting", value: count(queue.waiting), note: "tests without a slot" },
      { key: "reasons", label: "Reasons", value: count(queue.groups.length) },
      { key: "free", label: "Free slots", value: count(status?.slots.free ?? 0), note: `of ${count(status?.slots.total ?? 0)}` },
    ]);
    if (!queue.groups.length) {
      replace(groups, emptyState("Nothing waits", "Every submitted test runs or has its verdict."));
      return;
    }
    replace(groups, queue.groups.map(group));
  }

  function group(each) {
    const details = h(
      "details",
      { open: isOpen.has(each.reason) },
      h("summary", {}, h("strong", { class: "number" }, count(each.count)), ` ${each.count === 1 ? "test" : "tests"}: ${each.reason}`),
      h(
        "div",
        { class: "body" },
        h("p", { class: "muted" }, `In ${each.runs.length} ${each.runs.length === 1 ? "run" : "runs"}. The first of them:`),
        h("ul", {}, each.examples.map((task) => h("li", {}, h("a", { class: "mono", href: href("runs", task.run_id, "tasks", task.task_id) }, task.task_id)))),
        each.runs.length === 1 && h("p", {}, h("a", { href: href("runs", each.runs[0], { state: "waiting" }) }, "All that wait in this run")),
      ),
    );
    details.addEventListener("toggle", () => (details.open ? isOpen.add(each.reason) : isOpen.delete(each.reason)));
    return details;
  }

  const list = refreshing((signal) => get("/queue", {}, signal), { topics: ["status", "runs", "workers"], pause_s: 1.5, shown: show, failed: (error) => showError(groups, error) });
  return { element, title: "Queue", close: list.close };
}
