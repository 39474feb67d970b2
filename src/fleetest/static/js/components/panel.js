// Panels, tiles and progress bars: what every page is made of.

import { h, keyed, replace, setText } from "../dom.js";
import { count, duration, time, tone, VERDICTS } from "../format.js";

export function panel(title, { span = 12, end = null, isFlush = false, level = "h2" }, ...content) {
  return h(
    "section",
    { class: `panel span-${span}` },
    h("header", {}, h(level, {}, title), end && h("div", { class: "end" }, end)),
    h("div", { class: `body${isFlush ? " flush" : ""}` }, content),
  );
}

/** Tiles that change in place: show([{ key, label, value, note, tone, title }]). */
export function makeTiles() {
  const element = h("div", { class: "tiles" });
  return {
    element,
    show(tiles) {
      keyed(
        element,
        tiles,
        (tile) => tile.key,
        () => h("div", { class: "tile" }, h("div", { class: "label" }), h("div", { class: "value" }), h("div", { class: "note" })),
        (made, tile) => {
          setText(made.children[0], tile.label);
          setText(made.children[1], tile.value);
          made.children[1].className = `value ${tile.tone ?? ""}`.trim();
          setText(made.children[2], tile.note ?? "");
          if (made.title !== (tile.title ?? "")) made.title = tile.title ?? "";
        },
      );
    },
  };
}

/** Predicted time left, as a tile has it. What no worker can run waits for a worker, not for time. */
export function timeLeft(tasks, remaining_s) {
  if (tasks.waiting && !tasks.running && !tasks.leased) return { value: "–", note: "what waits cannot run now" };
  return remaining_s === null ? { value: "–", note: "not known yet" } : { value: duration(remaining_s), note: "predicted" };
}

/** How many of `total` ended how, as a bar with its meaning in words for those who do not see it. */
export function progressBar(counts, total, running = 0) {
  const sums = { good: 0, bad: 0, neutral: 0, busy: running };
  for (const [verdict, number] of Object.entries(counts)) sums[tone(verdict)] = (sums[tone(verdict)] ?? 0) + number;
  const bar = h("div", { class: "progress", role: "img", "aria-label": `${count(sums.good)} passed, ${count(sums.bad)} failed, ${count(sums.neutral)} skipped or not run, ${count(running)} running, of ${count(total)}` });
  for (const kind of ["good", "bad", "neutral", "busy"]) {
    const part = h("span", { class: kind });
    part.style.width = `${(100 * sums[kind]) / Math.max(1, total)}%`;
    bar.append(part);
  }
  return bar;
}

/** Verdicts that occur, as short text: "120 passed, 3 failed". */
export function verdictText(counts) {
  const parts = VERDICTS.filter((name) => counts[name]).map((name) => h("span", { class: `${tone(name)} nowrap` }, `${count(counts[name])} ${name.replace("_", " ")}`));
  return parts.length ? parts.flatMap((part, index) => (index ? [", ", part] : [part])) : h("span", { class: "muted" }, "nothing yet");
}

/** A command line with a button that copies it. */
export function commandLine(text) {
  const button = h("button", { type: "button", onclick: copy }, "Copy");
  async function copy() {
    await navigator.clipboard.writeText(text).catch(() => null);
    setText(button, "Copied");
    setTimeout(() => setText(button, "Copy"), 1500);
  }
  return h("div", { class: "command" }, h("code", {}, text), button);
}

/** What happened, a line each, newest last; lines begin with a time, except where some were left out. */
export function storyView(lines) {
  return h("ol", { class: "plain story" }, lines.map((line) => {
    const cut = line.indexOf(" ");
    const moment = line.slice(0, cut);
    return h("li", {}, Number.isNaN(Date.parse(moment)) || !moment.includes("T") ? line : [time(moment), h("span", {}, line.slice(cut + 1))]);
  }));
}

/** Shows an error of loading in place of the content. */
export function showError(element, error) {
  replace(element, h("div", { class: "empty", role: "alert" }, h("strong", {}, "This could not be loaded"), h("span", {}, error.message)));
}
