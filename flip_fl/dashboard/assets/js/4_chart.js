// One metric as an SVG: a line a site, cut at gaps, named at its end.
const LINE = 12.5;
// Dashes of a line that goes up and down all the time are not seen as such, and painting them takes seconds.
const MOST_DASHED = 8;
// As many points are drawn before a person is listened to again.
const A_TASK = 5000;

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
  if (!ruler) {
    ruler = document.createElement("canvas").getContext("2d");
    ruler.font = "500 11px " + (getComputedStyle(document.body).fontFamily || "sans-serif");
  }
  return ruler.measureText(text).width;
}

function shorten(text, room) {
  if (textWidth(text) <= room) return text;
  let cut = text.length;
  while (cut > 1 && textWidth(text.slice(0, cut) + "…") > room) cut -= 1;
  return text.slice(0, cut) + "…";
}

// Ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where there is room.
function logTicks(low, high) {
  const out = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) {
    for (const k of Math.log10(high / low) < 2 ? [1, 2, 5] : [1]) { const v = k * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) out.push(v); }
  }
  return out.length > 2 ? out : ticks(low, high, 4, false).out.filter((v) => v > 0);
}

// Ticks of a time axis fall on whole seconds, minutes, hours or days.
function timeTicks(low, high, count) {
  const steps = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find((x) => (high - low) / x <= count) || niceStep(high - low, count), out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) out.push(k * step);
  return { step, out };
}

function axisText(plot, value, step) {
  if (plot.axis === "elapsed") return duration(value).replace("0 ms", "0");
  if (plot.axis === "clock") { const iso = new Date(value).toISOString(); return step >= 86400000 ? day(iso).slice(0, -5) : clock(iso).slice(0, step >= 60000 ? 5 : 8); }
  return tickText(value, step);
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
  const svg = s("svg", { class: "dots", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }), lines = s("g", { class: "lines" });
  if (a.rows.length > 1) svg.append(s("line", { class: "mid", x1: px(a.median), x2: px(a.median), y1: 2, y2: height - 10 }));
  rows.forEach((q, k) => {
    const y = k * step + 12;
    svg.append(s("line", { class: "rail", x1: left, x2: right, y1: y, y2: y }));
    lines.append(s("g", { class: `series c${q.one.hue}`, "data-slot": q.one.slot },
      s("text", { class: "who", x: left - 8, y: y + 4, "text-anchor": "end" }, names[k]), q.y === null ? null : s("circle", { cx: px(q.y), cy: y, r: 4.5 }),
      s("text", { class: "who", x: width, y: y + 4, "text-anchor": "end" }, q.y === null ? "not finite" : number(q.y, plot.places))));
  });
  const cursor = s("g", { class: "cursor" });
  svg.append(lines, cursor);
  return { plot, svg, lines, box: { left, right, top: 0, bottom: height }, px: () => left, py: () => 0, shown, cursor, width, height, note: () => "", more: Object.assign(() => 0, { left: () => false }), still: true };
}

const heightOf = (names, lowest) => Math.max(lowest, Math.min(names, 40) * LINE + 44);

// The axes at once; the lines come by ``more``, which draws some thousand points a call and says how many, 0 at the end.
function drawChart(whole_plot, view, width, lowest = width < 420 ? 210 : 240) {
  if (whole_plot.single) return drawDots(whole_plot, view, width);
  const placed = onAxis(whole_plot, view.x, view.model), plot = within(placed, view);
  // smoothed from every point that there is, or not at all
  const smoothing = plot.thinned ? 0 : view.smooth, pointsOf = new Map(placed.series.map((one) => [one.slot, one.points]));
  const shown = plot.series.filter((one) => !view.hidden.has(one.slot) && one.points.length);
  const named = shown.filter((one) => one.gaps.length && (!view.log || one.gaps.at(-1).at(-1).y > 0));
  const all_y = shown.flatMap((one) => one.gaps.flatMap((run) => run.flatMap((p) => plot.spread?.get(`${one.slot} ${p.x}`) || [p.y])));
  // a logarithm has no place for a number that is not above 0: such values are counted and said
  const log = Boolean(view.log) && all_y.some((y) => y > 0), usable = (y) => !log || y > 0;
  const values = log ? all_y.filter(usable) : all_y, left_out = all_y.length - values.length;
  const room = Math.min(width * 0.28, 150);
  const withValue = width > 460;
  const texts = new Map(named.map((one) => [one.slot, shorten(clean(one.name), room) + (withValue ? `  ${number(one.gaps.at(-1).at(-1).y, plot.places)}` : "")]));
  const right = named.length ? Math.max(...[...texts.values()].map(textWidth)) + 18 : 12;
  const height = heightOf(named.length, lowest);
  let low = smallest(values), high = largest(values);
  if (!values.length) { low = 0; high = 1; }
  if (low === high) { const pad = Math.abs(low) * 0.05 || 0.5; low -= pad; high += pad; }
  const yt = log ? { step: 1, out: logTicks(low = low > 0 ? low : high / 10, high) } : ticks(low, high, 4, false);
  if (!log) {
    low = Math.min(low, yt.out.length ? Math.floor(low / yt.step + 1e-9) * yt.step : low);
    high = Math.max(high, Math.ceil(high / yt.step - 1e-9) * yt.step);
    yt.out = ticks(low, high, Math.round((high - low) / yt.step), false).out;
  }
  const yText = (v) => (log ? (v >= 1e5 || v < 1e-4 ? v.toExponential(0).replace("e+", "e").replace("-", "−") : String(Number(v.toPrecision(2)))) : tickText(v, yt.step));
  const left = Math.max(...yt.out.map((v) => textWidth(yText(v))), 16) + 9;
  const box = { left, top: 8, right: width - right, bottom: height - 30 };
  let x0 = plot.xs[0] ?? 0, x1 = plot.xs.at(-1) ?? 1;
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  const px = (x) => box.left + ((x - x0) / (x1 - x0)) * (box.right - box.left);
  const part = log ? (y) => Math.log(y / low) / Math.log(high / low) : (y) => (y - low) / (high - low);
  const py = (y) => box.bottom - part(y) * (box.bottom - box.top);
  const r = (v) => Math.round(v * 10) / 10;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", class: named.length > 8 ? "dense" : null });

  for (const v of yt.out) {
    const y = Math.round(py(v)) + 0.5;
    svg.append(s("line", { class: "gridline", x1: box.left, x2: box.right, y1: y, y2: y }),
      s("text", { x: box.left - 7, y: y + 3.5, "text-anchor": "end" }, yText(v)));
  }
  const whole = plot.xs.every(Number.isInteger);
  const most = Math.min(8, (box.right - box.left) / 62);
  const xt = plot.axis === "elapsed" ? timeTicks(x0, x1, most) : plot.axis === "clock" ? timeTicks(x0 / 1000, x1 / 1000, most) : plot.single ? { out: plot.xs, step: 1 } : ticks(plot.xs[0] ?? 0, plot.xs.at(-1) ?? 1, Math.min(plot.byRound ? plot.xs.length - 1 : 8, (box.right - box.left) / 46), whole);
  // the first round belongs on the axis, whatever the step
  if (plot.byRound && !plot.single && xt.out[0] > plot.xs[0] && xt.step > 1) xt.out = [plot.xs[0], ...xt.out.filter((v) => px(v) - px(plot.xs[0]) > 26)];
  if (plot.axis === "clock") { xt.step *= 1000; xt.out = xt.out.map((v) => v * 1000); }
  const base = Math.round(box.bottom) + 0.5;
  svg.append(s("line", { class: "axis", x1: box.left, x2: box.right, y1: base, y2: base }));
  for (const v of xt.out) {
    svg.append(s("line", { class: "axis", x1: Math.round(px(v)) + 0.5, x2: Math.round(px(v)) + 0.5, y1: base, y2: base + 4 }),
      s("text", { x: r(px(v)), y: base + 15, "text-anchor": "middle" }, axisText(plot, v, xt.step)));
  }
  for (const mark of marks(plot, view)) {
    const x = Math.round(px(mark.x)) + 0.5;
    if (x < box.left - 1 || x > box.right + 1) continue;
    svg.append(s("line", { class: `rule ${mark.kind}`, x1: x, x2: x, y1: box.top - 4, y2: base }, s("title", {}, mark.title)));
    if (mark.text) svg.append(s("text", { class: "rule", x: Math.min(x + 4, box.right - textWidth(mark.text)), y: box.top + 4 }, mark.text));
  }
  // what lies outside of the chosen rounds is counted at the edges
  if (plot.before) svg.append(s("text", { class: "edge", x: box.left, y: height - 3 }, `◂ ${plot.before}`));
  if (plot.after) svg.append(s("text", { class: "edge", x: box.right, y: height - 3, "text-anchor": "end" }, `${plot.after} ▸`));
  svg.append(s("text", { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" }, shorten(clean((plot.unit || (plot.byRound ? "round" : plot.xLabel)) + (smoothing ? `, smoothed ${smoothing}` : "")), box.right - box.left)));

  // more names than there is room for: every second, third, … from the top, so that the others stay readable
  const fits = Math.floor((box.bottom - box.top - 4) / LINE) + 1, keep = Math.max(1, Math.ceil(named.length / fits));
  const labelled = new Map(), labels = named.map((one) => ({ one, want: py(one.gaps.at(-1).at(-1).y) })).sort((a, b) => a.want - b.want).filter((_, k) => k % keep === 0);
  spread(labels, box.top + 2, box.bottom - 2);
  for (const label of labels) labelled.set(label.one, label);
  const stacked = new Map();
  let kept = 0, all = 0;
  const path = (list) => "M" + list.map((p) => `${r(px(p.x))} ${r(py(p.y))}`).join("L");
  const lengthOf = (list) => list.reduce((sum, p, k) => (k ? sum + Math.abs(px(p.x) - px(list[k - 1].x)) + Math.abs(py(p.y) - py(list[k - 1].y)) : 0), 0);
  const line = (one) => {
    const g = s("g", { class: `series c${one.hue}`, "data-slot": one.slot });
    if (plot.spread) {
      for (const run of one.gaps) {
        const ends = run.map((p) => [p.x, ...(plot.spread.get(`${one.slot} ${p.x}`) || [p.y, p.y])]).filter((q) => usable(q[1]));
        const edge = (k) => ends.map((q) => `${r(px(q[0]))} ${r(Math.max(box.top, Math.min(box.bottom, py(q[k]))))}`);
        if (ends.length > 1) g.append(s("path", { class: "band", d: `M${edge(1).join("L")}L${edge(2).reverse().join("L")}Z` }));
      }
    }
    const smoothed = smoothing ? new Map(smooth(pointsOf.get(one.slot), smoothing).map((p) => [p.x, p])) : null;
    // what an earlier attempt had measured stays, faint
    for (const run of gaps(one.earlier, new Set()).map((x) => x.filter((p) => usable(p.y)))) {
      if (run.length > 1) g.append(s("path", { class: "raw", d: path(run) }, s("title", {}, `${one.name}, an earlier attempt`)));
      else for (const p of run) g.append(s("circle", { class: "raw", cx: r(px(p.x)), cy: r(py(p.y)), r: 2.6 }, s("title", {}, `${one.name}, an earlier attempt`)));
    }
    for (const whole_run of one.gaps) {
      const run = whole_run.filter((p) => usable(p.y));
      if (!run.length) continue;
      const points = sample(run, one.points.length);
      all += run.length; kept += points.length;
      if (run.length > 1) {
        if (smoothed) g.append(s("path", { class: "raw", d: path(points) }));
        const line = smoothed ? points.map((p) => smoothed.get(p.x)) : points;
        const long = lengthOf(line) > MOST_DASHED * width;
        g.append(s("path", { d: path(line), class: long ? "long" : null, "stroke-dasharray": long ? null : one.dash || null }));
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
    const label = labelled.get(one);
    if (label) {
      const end = one.gaps.at(-1).at(-1), ex = px(end.x), ey = py(end.y);
      const far = box.right - ex > 6;
      if (Math.abs(label.y - ey) > 2 || far) g.append(s("path", { class: far ? "leader far" : "leader", d: `M${r(ex + 4)} ${r(ey)}L${r(far ? box.right : ex + 4)} ${r(far ? label.y : ey)}L${r(box.right + 11)} ${r(label.y)}` }));
      g.append(s("text", { x: r(box.right + 14), y: r(label.y + 3.8) }, texts.get(one.slot)));
    }
    return g;
  };
  const cursor = s("g", { class: "cursor" }), lines = s("g", { class: "lines" }), coming = [...shown];
  svg.append(lines, cursor);
  const more = (most = A_TASK) => {
    let points = 0;
    const next = [];
    while (coming.length && (!points || points + coming[0].points.length <= most)) { points += coming[0].points.length; next.push(line(coming.shift())); }
    lines.append(...next);
    return points;
  };
  more.left = () => coming.length > 0;
  const stored = () => (plot.thinned ? plot.total : all);
  const notes = () => [smoothing ? `smoothed ${smoothing}` : view.smooth ? "not smoothed: not every point is here" : "", kept < stored() ? `showing ${kept} of ${stored()} points` : "", log ? "logarithmic" : "", left_out ? `${plural(left_out, "value")} not above 0 left out` : ""];
  return { plot, svg, lines, box, px, py, usable, shown, cursor, width, height, more, note: () => notes().filter(Boolean).join(", ") };
}

// Rules of a chart: where a run went on after its server was lost, and, beside local steps, where rounds begin.
function marks(plot, view) {
  const out = [], rounds = [...view.model.story.rounds].sort((a, b) => a.number - b.number);
  const resumed = rounds.filter((q, k) => (q.attempt || 1) > ((rounds[k - 1] || {}).attempt || 1) && q.started_at);
  const turns = !plot.byRound && !plot.axis && plot.series.length;
  if (!resumed.length && !turns) return out;
  const first = new Map();
  for (const one of plot.series) for (const p of one.points) if (!(first.get(p.round) <= p.x)) first.set(p.round, p.x);
  for (const q of resumed) {
    if (first.has(q.number)) out.push({ kind: "resume", x: first.get(q.number), text: `resumed ${clock(q.started_at).slice(0, 5)}`, title: `Round ${q.number} was started again at ${clock(q.started_at)} UTC, attempt ${q.attempt}` });
  }
  if (turns && first.size > 1 && first.size <= 30) {
    for (const [number, x] of first) if (number > 1) out.push({ kind: "turn", x, title: `round ${number} begins` });
  }
  return out;
}
