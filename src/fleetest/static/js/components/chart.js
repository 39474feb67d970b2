// Lines over time by uPlot (vendored), in the colours of the theme.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { h, replace, soon } from "../dom.js";
import { absolute } from "../format.js";
import { onTheme } from "../theme.js";

/** Steps of an axis whose values are whole numbers, and of one with bytes. */
export const WHOLE = [1, 2, 5, 10, 20, 25, 50, ...Array.from({ length: 6 }, (_, power) => [100, 200, 250, 500].map((unit) => unit * 10 ** power)).flat()];
export const BYTES = Array.from({ length: 37 }, (_, power) => 2 ** (power + 10));

/**
 * series: [{ name, colour: "good", isFilled, isPoints, isHidden, format(value) }]; `increments` are the steps that the
 * vertical axis may have, `band` the numbers of the series between which it is filled, `describe(index)` the first line
 * of the tooltip. Returns { element, show(times, ...values) } with times in seconds since the epoch (`isTime`) or any
 * other ascending numbers.
 */
export function makeChart(series, { label, isTime = true, height = 170, formatX = null, increments = undefined, band = null, describe = null }) {
  const tip = h("div", { class: "chart-tip", hidden: true });
  const element = h("div", { class: "chart", role: "img", "aria-label": label }, tip);
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
  const format = series[0].format ?? String;

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
        hooks: { setCursor: [showTip] },
        bands: band ? [{ series: band, fill: () => `${colours[series[band[0] - 1].colour]}2e` }] : [],
        axes: [x, { ...axis, size: 58, ...(increments && { incrs: increments }), values: (_, values) => values.map(format) }],
        series: [
          {},
          ...series.map((each) => ({
            label: each.name,
            stroke: colour(each.colour),
            width: each.isPoints || each.isHidden ? 0 : 1.75,
            fill: each.isFilled ? () => `${colours[each.colour]}22` : undefined,
            points: { show: Boolean(each.isPoints), size: 6, fill: colour(each.colour) },
            spanGaps: true,
          })),
        ],
      },
      data,
      element,
    );
  }

  function showTip({ cursor }) {
    const index = cursor.idx;
    tip.hidden = index === null || index === undefined || cursor.left < 0;
    if (tip.hidden) return;
    const moment = describe?.(index) ?? (isTime ? absolute(new Date(data[0][index] * 1000)) : String(data[0][index]));
    const told = series.map((each, number) => [each, data[number + 1]?.[index]]).filter(([each, value]) => each.name && value !== null && value !== undefined);
    replace(tip, h("div", { class: "muted" }, moment), told.map(([each, value]) => h("div", { class: `key ${each.colour}` }, h("span", {}, `${each.name} ${(each.format ?? format)(value)}`))));
    const left = plot.over.offsetLeft + cursor.left;
    const isRight = left > element.clientWidth / 2;
    tip.style.left = isRight ? "auto" : `${left + 14}px`;
    tip.style.right = isRight ? `${element.clientWidth - left + 14}px` : "auto";
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
  return h("div", { class: "legend" }, series.filter((each) => each.name).map((each) => h("span", { class: `key ${each.colour}` }, h("span", {}, each.name))));
}
