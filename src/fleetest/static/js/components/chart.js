// Lines over time by uPlot (vendored), in the colours of the theme.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { h, soon } from "../dom.js";
import { onTheme } from "../theme.js";

/**
 * series: [{ name, colour: "good", isFilled, format(value) }]. Returns { element, show(times, ...values) } with times
 * in seconds since the epoch (`isTime`) or any other ascending numbers.
 */
export function makeChart(series, { label, isTime = true, height = 170, formatX = null }) {
  const element = h("div", { class: "chart", role: "img", "aria-label": label });
  let plot = null;
  let data = [[]];

  const names = ["muted", "line", "sans", ...series.map((each) => each.colour)];
  let colours = {};

  function learnColours() {
    const style = getComputedStyle(document.documentElement);
    colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  // As functions, so that another theme needs no other plot.
  const colour = (name) => () => colours[name];

  function build() {
    learnColours();
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: `12px ${colours.sans}` };
    const x = { ...axis, space: 70, size: 28, values: isTime ? clockTimes : (_, values) => values.map((value) => formatX?.(value) ?? value) };
    plot = new uPlot(
      {
        width: element.clientWidth || 400,
        height,
        scales: { x: { time: isTime }, y: { range: (_, least, most) => [Math.min(0, least ?? 0), Math.max(1e-9, (most ?? 1) * 1.08)] } },
        legend: { show: false },
        padding: [10, 26, 0, 0],
        cursor: { points: { size: 6 }, drag: { x: false, y: false } },
        axes: [x, { ...axis, size: 58, values: (_, values) => values.map((value) => series[0].format?.(value) ?? value) }],
        series: [
          {},
          ...series.map((each) => ({
            label: each.name,
            stroke: colour(each.colour),
            width: each.isPoints ? 0 : 1.75,
            fill: each.isFilled ? () => `${colours[each.colour]}22` : undefined,
            points: { show: Boolean(each.isPoints), size: 5, fill: colour(each.colour) },
            spanGaps: true,
          })),
        ],
      },
      data,
      element,
    );
  }

  new ResizeObserver(() => soon(() => plot && element.clientWidth && plot.setSize({ width: element.clientWidth, height }))).observe(element);
  onTheme(element, () => {
    learnColours();
    plot?.redraw(false);
  });

  return {
    element,
    show(...columns) {
      data = columns;
      if (plot) plot.setData(data);
      else if (element.isConnected) build();
      else requestAnimationFrame(() => { if (!plot && element.isConnected) build(); });
    },
  };
}

/** Hours and minutes; with seconds if the marks are closer than a minute. */
function clockTimes(_, moments) {
  const isFine = moments.length > 1 && moments[1] - moments[0] < 60;
  const options = { hour: "2-digit", minute: "2-digit", ...(isFine ? { second: "2-digit" } : {}) };
  return moments.map((moment) => new Date(moment * 1000).toLocaleTimeString("en-GB", options));
}

export function legendOf(series) {
  return h("div", { class: "legend" }, series.map((each) => h("span", { class: `key ${each.colour}` }, h("span", {}, each.name))));
}
