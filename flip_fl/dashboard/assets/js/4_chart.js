// One metric as an SVG: a line a site, cut at gaps, named at its end.
const LINE = 12.5;

function niceStep(span, count) {
  const raw = span / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw)), unit = raw / power;
  return (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10) * power;
}

function ticks(low, high, count, whole) {
  let step = niceStep(high - low || 1, count);
  if (whole) step = Math.max(1, Math.round(step));
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) out.push(k * step);
  return { step, out };
}

function tickText(value, step) {
  if (Math.abs(value) >= 1e5) return value.toExponential(0).replace("e+", "e");
  const places = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
  return value.toFixed(places).replace("-", "−");
}

let ruler = null;
function textWidth(text) {
  ruler = ruler || document.createElement("canvas").getContext("2d");
  ruler.font = "500 11px " + (getComputedStyle(document.body).fontFamily || "sans-serif");
  return ruler.measureText(text).width;
}

function shorten(text, room) {
  if (textWidth(text) <= room) return text;
  let cut = text.length;
  while (cut > 1 && textWidth(text.slice(0, cut) + "…") > room) cut -= 1;
  return text.slice(0, cut) + "…";
}

// Ends of lines are named without two names on one another: pushed down from the top, then up from the bottom.
function spread(labels, top, bottom) {
  labels.sort((a, b) => a.want - b.want);
  let at = top;
  for (const l of labels) { l.y = Math.max(l.want, at); at = l.y + LINE; }
  at = bottom;
  for (const l of [...labels].reverse()) { l.y = Math.min(l.y, at); at = l.y - LINE; }
}

// A metric with one value a site is no curve: a row a site, sorted.
function drawDots(plot, view, width) {
  const x = plot.xs[0], a = across(plot, x, view.hidden), shown = plot.series.filter((one) => !view.hidden.has(one.slot) && one.points.length);
  const rows = [...a.rows, ...shown.filter((one) => one.at.get(x).y === null).map((one) => ({ one, y: null }))];
  const names = rows.map((q) => shorten(clean(q.one.name), Math.min(width * 0.34, 190)));
  const left = Math.max(30, ...names.map(textWidth)) + 14, right = width - 62, step = 20, height = rows.length * step + 12;
  const low = a.rows.length ? a.low.y : 0, high = a.rows.length ? a.high.y : 0;
  const px = (y) => (high === low ? (left + right) / 2 : left + 8 + ((y - low) / (high - low)) * (right - left - 16));
  const svg = s("svg", { class: "dots", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  if (a.rows.length > 1) svg.append(s("line", { class: "mid", x1: px(a.median), x2: px(a.median), y1: 2, y2: height - 10 }));
  rows.forEach((q, k) => {
    const y = k * step + 12;
    svg.append(s("line", { class: "rail", x1: left, x2: right, y1: y, y2: y }), s("g", { class: `series c${q.one.hue}`, "data-slot": q.one.slot },
      s("text", { class: "who", x: left - 8, y: y + 4, "text-anchor": "end" }, names[k]), q.y === null ? null : s("circle", { cx: px(q.y), cy: y, r: 4.5 }),
      s("text", { class: "who", x: width, y: y + 4, "text-anchor": "end" }, q.y === null ? "not finite" : number(q.y, plot.places))));
  });
  const cursor = s("g", { class: "cursor" });
  svg.append(cursor);
  return { svg, box: { left, right, top: 0, bottom: height }, px: () => left, py: () => 0, shown, cursor, width, height, note: "", still: true };
}

function drawChart(plot, view, width, lowest = width < 420 ? 210 : 240) {
  if (plot.single) return drawDots(plot, view, width);
  const shown = plot.series.filter((one) => !view.hidden.has(one.slot) && one.points.length);
  const named = shown.filter((one) => one.gaps.length);
  const values = shown.flatMap((one) => one.gaps.flat().map((p) => p.y));
  const room = Math.min(width * 0.28, 150);
  const withValue = width > 460;
  const texts = new Map(named.map((one) => [one.slot, shorten(clean(one.name), room) + (withValue ? `  ${number(one.gaps.at(-1).at(-1).y, plot.places)}` : "")]));
  const right = named.length ? Math.max(...[...texts.values()].map(textWidth)) + 18 : 12;
  const height = Math.max(lowest, Math.min(named.length, 40) * LINE + 44);
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) { low = 0; high = 1; }
  if (low === high) { const pad = Math.abs(low) * 0.05 || 0.5; low -= pad; high += pad; }
  const yt = ticks(low, high, 4, false);
  low = Math.min(low, yt.out.length ? Math.floor(low / yt.step + 1e-9) * yt.step : low);
  high = Math.max(high, Math.ceil(high / yt.step - 1e-9) * yt.step);
  yt.out = ticks(low, high, Math.round((high - low) / yt.step), false).out;
  const left = Math.max(...yt.out.map((v) => textWidth(tickText(v, yt.step))), 16) + 9;
  const box = { left, top: 8, right: width - right, bottom: height - 30 };
  let x0 = plot.xs[0] ?? 0, x1 = plot.xs.at(-1) ?? 1;
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const px = (x) => box.left + ((x - x0) / (x1 - x0)) * (box.right - box.left);
  const py = (y) => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);
  const r = (v) => Math.round(v * 10) / 10;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", class: named.length > 8 ? "dense" : null });

  for (const v of yt.out) {
    const y = Math.round(py(v)) + 0.5;
    svg.append(s("line", { class: "gridline", x1: box.left, x2: box.right, y1: y, y2: y }),
      s("text", { x: box.left - 7, y: y + 3.5, "text-anchor": "end" }, tickText(v, yt.step)));
  }
  const whole = plot.xs.every(Number.isInteger);
  const xt = plot.single ? { out: plot.xs, step: 1 } : ticks(plot.xs[0] ?? 0, plot.xs.at(-1) ?? 1, Math.min(plot.byRound ? plot.xs.length - 1 : 8, (box.right - box.left) / 46), whole);
  // the first round belongs on the axis, whatever the step
  if (plot.byRound && !plot.single && xt.out[0] > plot.xs[0] && xt.step > 1) xt.out = [plot.xs[0], ...xt.out.filter((v) => px(v) - px(plot.xs[0]) > 26)];
  const base = Math.round(box.bottom) + 0.5;
  svg.append(s("line", { class: "axis", x1: box.left, x2: box.right, y1: base, y2: base }));
  for (const v of xt.out) {
    svg.append(s("line", { class: "axis", x1: Math.round(px(v)) + 0.5, x2: Math.round(px(v)) + 0.5, y1: base, y2: base + 4 }),
      s("text", { x: r(px(v)), y: base + 15, "text-anchor": "middle" }, tickText(v, xt.step)));
  }
  svg.append(s("text", { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" }, shorten(clean(plot.byRound ? "round" : plot.xLabel), box.right - box.left)));

  const labels = named.map((one) => ({ one, want: py(one.gaps.at(-1).at(-1).y) }));
  spread(labels, box.top + 2, box.bottom - 2);
  const fits = Math.floor((box.bottom - box.top) / LINE) + 1;
  const keep = labels.length <= fits ? null : Math.ceil(labels.length / fits);
  const stacked = new Map();
  let kept = 0, all = 0;
  for (const one of shown) {
    const g = s("g", { class: `series c${one.hue}`, "data-slot": one.slot });
    const smoothed = view.smooth ? new Map(smooth(one.points, view.smooth).map((p) => [p.x, p])) : null;
    for (const run of one.gaps) {
      const points = sample(run, one.points.length);
      all += run.length; kept += points.length;
      const path = (list) => "M" + list.map((p) => `${r(px(p.x))} ${r(py(p.y))}`).join("L");
      if (run.length > 1) {
        if (smoothed) g.append(s("path", { class: "raw", d: path(points) }));
        g.append(s("path", { d: path(smoothed ? points.map((p) => smoothed.get(p.x)) : points), "stroke-dasharray": one.dash || null }));
      }
      if (run.length === 1 || (!smoothed && plot.xs.length <= 24 && named.length <= 8)) {
        for (const p of points) g.append(s("circle", { cx: r(px(p.x)), cy: r(py(p.y)), r: run.length === 1 ? 3.2 : 2.6 }));
      }
    }
    for (const p of one.refused) {
      const x = px(p.x), y = box.bottom - 6;
      g.append(s("path", { class: "nan", d: `M${r(x - 3.5)} ${y - 3.5}l7 7m0 -7l-7 7` }, s("title", {}, `${one.name}, round ${p.round}: not finite`)));
    }
    for (const x of one.missed) {
      const level = stacked.get(x) || 0;
      stacked.set(x, level + 1);
      if (level < 5) g.append(s("line", { class: "miss", x1: r(px(x)), x2: r(px(x)), y1: base + 1, y2: base + 6 }, s("title", {}, `${one.name}: nothing in round ${x}`)));
    }
    const label = labels.find((l) => l.one === one);
    if (label && (!keep || labels.indexOf(label) % keep === 0 || label === labels.at(-1))) {
      const end = one.gaps.at(-1).at(-1), ex = px(end.x), ey = py(end.y);
      const far = box.right - ex > 6;
      if (Math.abs(label.y - ey) > 2 || far) g.append(s("path", { class: far ? "leader far" : "leader", d: `M${r(ex + 4)} ${r(ey)}L${r(far ? box.right : ex + 4)} ${r(far ? label.y : ey)}L${r(box.right + 11)} ${r(label.y)}` }));
      g.append(s("text", { x: r(box.right + 14), y: r(label.y + 3.8) }, texts.get(one.slot)));
    }
    svg.append(g);
  }
  const cursor = s("g", { class: "cursor" });
  svg.append(cursor);
  return { svg, box, px, py, shown, cursor, width, height, note: kept < all ? `showing ${kept} of ${all} points` : "" };
}
