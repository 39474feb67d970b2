// One test of one run: where it is and why, and every attempt.

import { get, path } from "../api.js";
import { attemptView } from "../components/attempt.js";
import { commandLine, panel, showError, storyView } from "../components/panel.js";
import { h, replace, setText } from "../dom.js";
import { badge, count, duration } from "../format.js";
import { refreshing } from "../live.js";
import { href } from "../place.js";

export function taskPage(runId, taskId) {
  const body = h("div", { class: "page" });
  const element = h(
    "div",
    { class: "page" },
    h("div", { class: "page-head" }, h("div", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / ", h("a", { class: "mono", href: href("runs", runId) }, runId.slice(0, 12))), h("h1", { class: "mono" }, taskId)),
    body,
  );
  const took = h("span", {});
  let mark = "";

  function show(task) {
    // How long it has been running goes on; all else is drawn only when it changes, so that focus and selection stay.
    setText(took, duration(task.duration_s));
    const next = JSON.stringify({ ...task, duration_s: task.verdict ? task.duration_s : null });
    if (next === mark) return;
    mark = next;
    const facts = [
      ["State", badge(task.verdict ?? task.state)],
      task.verdict ? ["Reason", task.reason] : ["Why", task.why],
      ["Needs", task.requirements],
      ["Expected", task.expected_s === null ? "not known yet" : duration(task.expected_s)],
      [task.verdict ? "Took" : "Runs for", task.duration_s === null ? null : took],
      ["Timeout", task.timeout_s === null ? null : duration(task.timeout_s)],
      ["Retries", task.retries ? count(task.retries) : null],
      ["Depends on", task.depends_on.length ? task.depends_on.map((name) => h("div", {}, h("a", { class: "mono", href: href("runs", runId, "tasks", name) }, name))) : null],
      ["Over time", h("a", { href: href("tests", task.task_id) }, "All executions of this test")],
    ];
    replace(
      body,
      panel(task.verdict ? "How it ended" : "Where it is", {}, h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))),
      panel("Run it alone", {}, commandLine(task.reproduce)),
      task.attempt_list.length ? [...task.attempt_list].reverse().map((attempt) => panel(`Attempt ${attempt.attempt}`, {}, attemptView(attempt, { isTitled: true }))) : null,
      task.scores.length ? panel("Workers that could run it", { isFlush: true }, scores(task.scores)) : null,
      task.story.length ? panel("What happened to it", {}, storyView(task.story)) : null,
    );
  }

  /** Each part is in (0, 1]; the total is their product. */
  function scores(rows) {
    const parts = [["total", "Total"], ["fit", "Fit"], ["free", "Free"], ["speed", "Speed"], ["reliability", "Reliability"], ["locality", "Locality"], ["preference", "Preference"]];
    return h(
      "div",
      { class: "table-wrap" },
      h(
        "table",
        {},
        h("caption", { class: "visually-hidden" }, "Scores of workers for this test, best first"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Worker"), parts.map(([, title]) => h("th", { scope: "col", class: "number" }, title)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, h("a", { href: href("workers", row.worker_id) }, row.worker_id)), parts.map(([name]) => h("td", { class: "number" }, row[name].toFixed(2)))))),
      ),
    );
  }

  const load = refreshing((signal) => get(path("runs", runId, "tasks", taskId), {}, signal), { topics: ["runs"], pause_s: 1, shown: show, failed: (error) => showError(body, error) });
  return { element, title: taskId, close: load.close };
}
