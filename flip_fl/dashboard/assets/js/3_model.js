// What the page knows about a story: sites with their identity, and plots cut where nothing was measured.
const HUES = 8;
const DASHES = ["", "7 3", "2 3"];
const MOST_POINTS = 2000;

function naturalOrder(a, b) {
  return a.localeCompare(b, "en", { numeric: true });
}

// Slot Trust_n has identity n in every run, chart and print; others take the free ones.
function identities(slots) {
  const out = new Map(), taken = new Set(), free = [];
  for (const slot of slots) {
    const match = /(\d{1,6})$/.exec(slot);
    const wanted = match ? (Number(match[1]) + HUES * DASHES.length - 1) % (HUES * DASHES.length) : -1;
    if (wanted >= 0 && !taken.has(wanted)) { taken.add(wanted); out.set(slot, wanted); } else free.push(slot);
  }
  let next = 0;
  for (const slot of free) {
    while (taken.has(next) && taken.size < HUES * DASHES.length) next += 1;
    taken.add(next % (HUES * DASHES.length));
    out.set(slot, next % (HUES * DASHES.length));
    next += 1;
  }
  return new Map([...out].map(([slot, id]) => [slot, { hue: id % HUES, dash: DASHES[Math.floor(id / HUES)] }]));
}

function buildModel(story) {
  const names = new Map(story.sites.map((x) => [x.slot, x.code || x.trust || x.slot]));
  for (const plot of story.plots) for (const one of plot.series) names.set(one.slot, one.name || one.slot);
  for (const round of story.rounds) for (const cell of round.cells) if (!names.has(cell.slot)) names.set(cell.slot, cell.slot);
  const slots = [...names.keys()].sort(naturalOrder);
  const used = new Map();
  for (const name of names.values()) used.set(name, (used.get(name) || 0) + 1);
  const marks = identities(slots);
  const sites = slots.map((slot) => ({ slot, name: used.get(names.get(slot)) > 1 ? `${names.get(slot)} (${slot})` : names.get(slot), ...marks.get(slot) }));
  const bySlot = new Map(sites.map((x) => [x.slot, x]));
  const times = [...story.history.map((x) => x.at), ...story.feed.map((x) => x.at)].map(ms).filter(Number.isFinite);
  const begun = story.history.filter((x) => x.applied && x.status !== "PENDING").map((x) => ms(x.at));
  return {
    story, sites, bySlot,
    start: begun.length ? Math.min(...begun) : times.length ? Math.min(...times) : ms(story.generated_at),
    end: endOf(story, times),
    plots: story.plots.map((plot, index) => buildPlot(plot, index, bySlot)),
  };
}

const TERMINAL = new Set(["RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED", "STOPPED", "ERROR"]);

function endOf(story, times) {
  const last = story.history.filter((x) => x.applied && TERMINAL.has(x.status)).at(-1);
  return last && TERMINAL.has(story.status) ? ms(last.at) : times.length ? Math.max(...times) : NaN;
}

const LOWER = /(^|[^a-z])(loss|error|err|mae|mse|rmse|nll|perplexity|brier|ece|hausdorff|hd95|asd|assd)([^a-z]|$)/i;
const HIGHER = /(^|[^a-z])(acc|accuracy|auc|auroc|auprc|ap|map|dice|dsc|iou|jaccard|f1|precision|recall|sensitivity|specificity|kappa|r2|mcc|psnr|ssim|cindex|c_index)([^a-z]|$)/i;

function buildPlot(plot, index, bySlot) {
  const xs = [...new Set(plot.series.flatMap((one) => one.points.map((p) => p.x)))].sort((a, b) => a - b);
  const everyRound = new Set(plot.series.flatMap((one) => one.points.map((p) => p.round)));
  const byRound = plot.series.every((one) => one.points.every((p) => p.x === p.round));
  const series = plot.series
    .map((one) => ({ ...bySlot.get(one.slot), points: one.points, at: new Map(one.points.map((p) => [p.x, p])) }))
    .sort((a, b) => naturalOrder(a.slot, b.slot));
  for (const one of series) {
    one.gaps = gaps(one.points, everyRound);
    one.missed = byRound ? xs.filter((x) => !one.at.has(x)) : [];
    one.refused = one.points.filter((p) => p.y === null);
  }
  const values = series.flatMap((one) => one.points.map((p) => p.y).filter((y) => y !== null));
  return {
    index, label: plot.label, xLabel: plot.x_label, series, xs, byRound, values,
    places: decimals(values),
    better: LOWER.test(plot.label.replace(/_/g, " ")) ? -1 : HIGHER.test(plot.label.replace(/_/g, " ")) ? 1 : 0,
    single: xs.length === 1,
    // in a job of several stages a label begins with its stage
    training: /^train_/.test(plot.label.split("/").at(-1)),
  };
}

// Runs of points with nothing missing between them: cut at a refused value and where a round that others have is missing.
function gaps(points, everyRound) {
  const runs = [];
  let run = [], before = null;
  for (const p of points) {
    let cut = false;
    if (before && p.round > before.round + 1) {
      for (let r = before.round + 1; r < p.round && !cut; r += 1) cut = everyRound.has(r);
    }
    if (cut || p.y === null) { if (run.length) runs.push(run); run = []; }
    if (p.y !== null) run.push(p);
    before = p;
  }
  if (run.length) runs.push(run);
  return runs;
}

// Smallest and largest of every bucket; buckets are powers of two, so old picks stay when points are added.
function sample(run, total) {
  if (total <= MOST_POINTS) return run;
  const span = run.at(-1).x - run[0].x;
  const width = 2 ** Math.ceil(Math.log2((span || 1) / ((MOST_POINTS / 2) * (run.length / total))));
  const kept = new Set([run[0], run.at(-1)]);
  let bucket = null, low = null, high = null;
  const close = () => { if (low) { kept.add(low); kept.add(high); } };
  for (const p of run) {
    const which = Math.floor(p.x / width);
    if (which !== bucket) { close(); bucket = which; low = high = p; }
    if (p.y < low.y) low = p;
    if (p.y > high.y) high = p;
  }
  close();
  return run.filter((p) => kept.has(p));
}

function smooth(points, weight) {
  let sum = 0, norm = 0;
  return points.map((p) => {
    if (p.y === null) return p;
    sum = sum * weight + p.y * (1 - weight);
    norm = norm * weight + (1 - weight);
    return { ...p, y: sum / norm };
  });
}

// What the sites measured at x: sorted pairs of series and value, and what stands out.
function across(plot, x, hidden) {
  const rows = plot.series.filter((one) => !hidden.has(one.slot) && one.at.has(x) && one.at.get(x).y !== null).map((one) => ({ one, y: one.at.get(x).y }));
  rows.sort((a, b) => b.y - a.y);
  return { rows, median: median(rows.map((r) => r.y)), high: rows[0], low: rows.at(-1) };
}

function improves(plot, a, b) {
  return plot.better < 0 ? a < b : a > b;
}

function summarise(plot, hidden) {
  const mids = plot.xs.map((x) => ({ x, ...across(plot, x, hidden) })).filter((m) => m.rows.length);
  if (!mids.length) return "No finite value arrived.";
  const last = mids.at(-1), unit = plot.byRound ? "round" : plot.xLabel, many = last.rows.length > 1;
  const f = (y) => number(y, plot.places);
  const out = [];
  if (plot.single) out.push(many ? `${f(last.low.y)} (${last.low.one.name}) to ${f(last.high.y)} (${last.high.one.name}), median ${f(last.median)}.` : `${f(last.median)}.`);
  else {
    out.push(many ? `${cap(unit)} ${last.x}: ${f(last.low.y)} to ${f(last.high.y)}, median ${f(last.median)}.` : `${cap(unit)} ${last.x}: ${f(last.median)}.`);
    let best = mids[0];
    for (const m of mids) if (improves(plot, m.median, best.median)) best = m;
    const back = mids[Math.max(0, mids.length - 6)];
    if (mids.length > 2) out.push(`${signed(last.median - back.median, plot.places)} since ${unit} ${back.x}.`);
    if (plot.better && plot.byRound && mids.length > 2) {
      const since = mids.length - 1 - mids.indexOf(best);
      out.push(since ? `Best ${f(best.median)} in ${unit} ${best.x}; no improvement for ${plural(since, "round")}.` : "Best in the last round.");
    }
  }
  const holes = plot.series.filter((one) => one.missed.length && !hidden.has(one.slot));
  if (holes.length && !plot.single) out.push(`No value: ${listing(holes.map((one) => `${one.name} (${unit} ${ranges(one.missed)})`), 2)}.`);
  const refused = plot.series.filter((one) => one.refused.length && !hidden.has(one.slot));
  if (refused.length) out.push(`Not finite: ${listing(refused.map((one) => `${one.name} (${unit} ${ranges(one.refused.map((p) => p.x))})`), 2)}.`);
  return out.join(" ");
}

const cap = (text) => text.charAt(0).toUpperCase() + text.slice(1);
