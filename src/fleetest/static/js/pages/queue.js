// What waits, and why.

import { get } from "../api.js";
import { makeTiles, panel, showError } from "../components/panel.js";
import { emptyState } from "../components/table.js";
import { h, keyed, renew, replace, setText } from "../dom.js";
import { count } from "../format.js";
import { live, refreshing } from "../live.js";
import { href } from "../place.js";

const OPENED = 3;

/** A reason stays the same one while the numbers in it change. */
function named(groups) {
  const seen = new Map();
  return groups.map((group) => {
    const words = group.reason.replace(/\d+/g, "#");
    seen.set(words, (seen.get(words) ?? 0) + 1);
    return { ...group, key: `${words} ${seen.get(words)}` };
  });
}

export function queuePage() {
  let isFew = false;
  const tiles = makeTiles();
  const groups = h("div", {});
  const list = h("div", {});
  const nothing = h("div", {});
  const element = h("div", { class: "page" }, h("div", { class: "page-head" }, h("h1", {}, "Queue")), tiles.element, panel("Why tests wait", { isFlush: true }, groups));
  function show(queue) {
    const status = live.status;
    tiles.show([
      { key: "waiting", label: "Waiting", value: count(queue.waiting), note: "tests without a slot" },
      { key: "reasons", label: "Reasons", value: count(queue.groups.length), note: "each is a group below" },
      { key: "free", label: "Free slots", value: count(status?.slots.free ?? 0), note: `of ${count(status?.slots.total ?? 0)}; not of workers that are drained or quarantined` },
    ]);
    if (!list.isConnected) replace(groups, list, nothing);
    isFew = queue.groups.length <= OPENED;
    renew(nothing, !queue.groups.length && emptyState("Nothing waits", "Every submitted test runs or has its verdict. Tests that cannot start yet are listed here by the reason."));
    keyed(list, named(queue.groups), (each) => each.key, group, (details, each) => details.update(each));
  }

  /** Stays as it is, open or not, while its numbers change. */
  function group() {
    const [number, body] = [h("strong", { class: "number" }), h("div", { class: "body" })];
    const what = h("span", {});
    const details = h("details", { open: isFew }, h("summary", {}, number, what), body);
    details.update = (each) => {
      setText(number, count(each.count));
      setText(what, ` ${each.count === 1 ? "test" : "tests"}: ${each.reason}`);
      renew(
        body,
        h("p", { class: "muted" }, each.examples.length < each.count ? `The first ${each.examples.length}:` : "All of them:"),
        h("ul", {}, each.examples.map((task) => h("li", {}, h("a", { class: "mono", href: href("runs", task.run_id, "tasks", task.task_id) }, task.task_id)))),
        h("p", {}, each.runs.map((run, index) => [index ? ", " : "", h("a", { href: href("runs", run, { status: "waiting" }) }, each.runs.length === 1 ? "All that wait in this run" : `All that wait in run ${run.slice(0, 12)}`)])),
      );
    };
    return details;
  }

  const load = refreshing((signal) => get("/queue", {}, signal), { topics: ["status", "runs", "workers"], pause_s: 1.5, shown: show, failed: (error) => showError(groups, error) });
  return { element, title: "Queue", close: load.close };
}
