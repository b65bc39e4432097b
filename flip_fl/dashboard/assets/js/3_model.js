// What the page knows about a story: sites with their identity, and plots cut where nothing was measured.
const HUES = 8;
const DASHES = ["", "7 3", "2 3"];
const MOST_POINTS = 2000;

// one collator: a string's own comparison makes one each time, which a hundred sites in fifty plots are long about
const naturalOrder = new Intl.Collator("en", { numeric: true }).compare;

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

function buildModel(story, before = null) {
  const names = new Map(story.sites.map((x) => [x.slot, x.code || x.trust || x.slot]));
  for (const plot of story.plots) for (const one of plot.series) names.set(one.slot, one.name || one.slot);
  for (const slot of askedIn(story.rounds)) if (!names.has(slot)) names.set(slot, slot);
  const slots = [...names.keys()].sort(naturalOrder);
  const used = new Map();
  for (const name of names.values()) used.set(name, (used.get(name) || 0) + 1);
  const marks = identities(slots);
  const found = slots.map((slot) => ({ slot, name: used.get(names.get(slot)) > 1 ? `${names.get(slot)} (${slot})` : names.get(slot), ...marks.get(slot) }));
  // what did not change stays the same object: parts that are drawn from it need not be drawn anew
  const same = before && before.sites.length === found.length && found.every((x, k) => x.slot === before.sites[k].slot && x.name === before.sites[k].name);
  const sites = same ? before.sites : found, bySlot = same ? before.bySlot : new Map(sites.map((x) => [x.slot, x]));
  const times = [...story.history.map((x) => x.at), ...story.feed.map((x) => x.at)].map(ms).filter(Number.isFinite);
  const begun = story.history.filter((x) => x.applied && x.status !== "PENDING").map((x) => ms(x.at));
  return {
    story, sites, bySlot,
    start: begun.length ? Math.min(...begun) : times.length ? Math.min(...times) : ms(story.generated_at),
    end: endOf(story, times),
    plots: story.plots.map((plot, index) => {
      const known = before && before.plots.find((x) => x.source === plot);
      return known && same ? known : buildPlot(plot, index, bySlot);
    }),
  };
}

const askedOf = new WeakMap();
function askedIn(rounds) {
  if (!askedOf.has(rounds)) askedOf.set(rounds, new Set(rounds.flatMap((r) => r.cells.map((c) => c.slot))));
  return askedOf.get(rounds);
}

// The rounds' times, by number: when it began, and when its model was there or, while it is open, its last sign.
function roundTimes(story) {
  return new Map(story.rounds.filter((r) => r.started_at).map((r) => {
    const signs = r.cells.map((c) => (c.at ? ms(c.at) : NaN)).filter(Number.isFinite);
    return [r.number, [ms(r.started_at), r.aggregated_at ? ms(r.aggregated_at) : signs.length ? largest(signs) : NaN]];
  }));
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
    .map((one) => ({ ...bySlot.get(one.slot), points: one.points, earlier: one.earlier || [], breaks: one.breaks, total: one.total ?? one.points.length, before: one.before || 0, after: one.after || 0, at: new Map(one.points.map((p) => [p.x, p])) }))
    .sort((a, b) => naturalOrder(a.slot, b.slot));
  for (const one of series) {
    one.gaps = one.breaks && one.total > one.points.length ? broken(one.points, one.breaks) : gaps(one.points, everyRound);
    one.missed = byRound && one.total <= one.points.length ? xs.filter((x) => !one.at.has(x)) : [];
    one.refused = one.points.filter((p) => p.y === null);
  }
  const thinned = plot.series.some((one) => (one.total ?? 0) > one.points.length) && plot.series.some((one) => one.points.length);
  const values = series.flatMap((one) => one.points.map((p) => p.y).filter((y) => y !== null));
  const total = plot.series.reduce((sum, one) => sum + (one.total ?? one.points.length), 0);
  return {
    source: plot, index, total, listed: total > 0 && plot.series.every((one) => !one.points.length) && plot.series.length > 0,
    thinned,
    // a part that was fetched: what is beyond it is known by number only
    partial: plot.series.some((one) => one.before || one.after),
    // of a thinned plot most places hold some sites only: no site is compared with others there
    common: thinned ? xs.filter((x) => series.every((one) => !one.points.length || one.at.has(x))) : xs,
    label: plot.label, xLabel: plot.x_label, series, xs, byRound, values,
    places: decimals(values),
    better: LOWER.test(plot.label.replace(/_/g, " ")) ? -1 : HIGHER.test(plot.label.replace(/_/g, " ")) ? 1 : 0,
    single: xs.length === 1 && !plot.series.some((one) => (one.total ?? 0) > one.points.length),
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

// A series that the hub has thinned says itself before which points it is cut.
function broken(points, breaks) {
  const cuts = new Set(breaks), runs = [];
  let run = [];
  points.forEach((p, k) => {
    if ((cuts.has(k) || p.y === null) && run.length) { runs.push(run); run = []; }
    if (p.y !== null) run.push(p);
  });
  return run.length ? [...runs, run] : runs;
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

// The median of the sites at each x where one of them has a value.
function medians(plot, hidden) {
  const at = new Map();
  for (const one of plot.series) {
    if (hidden.has(one.slot)) continue;
    for (const p of one.at.values()) if (p.y !== null) { const all = at.get(p.x); if (all) all.push(p.y); else at.set(p.x, [p.y]); }
  }
  return plot.common.filter((x) => at.has(x)).map((x) => ({ x, median: median(at.get(x)) }));
}

function summarise(plot, hidden) {
  const mids = medians(plot, hidden);
  if (!mids.length) return "No finite value arrived.";
  const last = across(plot, mids.at(-1).x, hidden), unit = plot.byRound ? "round" : plot.xLabel, many = last.rows.length > 1;
  const f = (y) => number(y, plot.places);
  const out = [];
  if (plot.single) out.push(many ? `${f(last.low.y)} (${last.low.one.name}) to ${f(last.high.y)} (${last.high.one.name}), median ${f(last.median)}.` : `${f(last.median)}.`);
  else {
    out.push(many ? `${cap(unit)} ${mids.at(-1).x}: ${f(last.low.y)} to ${f(last.high.y)}, median ${f(last.median)}.` : `${cap(unit)} ${mids.at(-1).x}: ${f(last.median)}.`);
    let best = mids[0];
    for (const m of mids) if (improves(plot, m.median, best.median)) best = m;
    const back = mids[Math.max(0, mids.length - 6)];
    if (plot.partial) out.push("Of the part that is shown.");
    else if (plot.thinned) out.push("Zoom in to compare rounds.");
    else if (mids.length > 2) out.push(`${signed(last.median - back.median, plot.places)} since ${unit} ${back.x}.`);
    if (plot.better && plot.byRound && mids.length > 2 && !plot.thinned && !plot.partial) {
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

// The same numbers on another axis: "rounds" puts local steps between rounds, "elapsed" and "clock" are the hub's time.
function onAxis(plot, axis, model) {
  if (!axis || (axis === "rounds" && plot.byRound) || plot.single) return plot;
  const times = axis === "rounds" ? null : roundTimes(model.story);
  const place = (p, k, n) => {
    const part = plot.byRound ? 1 : (k + 1) / n;
    if (!times) return p.round - 1 + part;
    const [from, to] = times.get(p.round) || [NaN, NaN];
    return Math.round(from + (to - from) * part - (axis === "elapsed" ? model.start : 0)) / (axis === "elapsed" ? 1000 : 1);
  };
  const move = (points) => {
    const counts = new Map(), at = new Map();
    for (const p of points) counts.set(p.round, (counts.get(p.round) || 0) + 1);
    return points.map((p) => { const k = at.get(p.round) || 0; at.set(p.round, k + 1); return { ...p, x: place(p, k, counts.get(p.round)), own: p.x }; }).filter((p) => Number.isFinite(p.x));
  };
  const rounds = new Set(plot.series.flatMap((one) => one.points.map((p) => p.round)));
  const series = plot.series.map((one) => {
    const points = move(one.points);
    return { ...one, points, earlier: times ? [] : move(one.earlier), at: new Map(points.map((p) => [p.x, p])), gaps: gaps(points, rounds), missed: [], refused: points.filter((p) => p.y === null) };
  });
  const xs = [...new Set(series.flatMap((one) => one.points.map((p) => p.x)))].sort((a, b) => a - b);
  return { ...plot, axis, series, xs, byRound: false, unit: { rounds: "round", elapsed: "time since the start", clock: "time, UTC" }[axis] };
}

// Which part of a plot is asked for: a span of its own axis, or the rounds that are shown; null where it is the whole.
function partOf(plot, view) {
  const span = view.span && view.span.plot === plot.index && !plot.axis ? view.span : null;
  if (span) return { low: span.low, high: span.high, of: (p) => p.x };
  return view.from === null && view.to === null ? null : { low: view.from ?? -Infinity, high: view.to ?? Infinity, of: (p) => p.round };
}

// The same as places on the plot's own axis: a bit more than the part where these are between steps of other rounds.
function rangeOf(plot, view) {
  const part = partOf(plot, view);
  if (!part) return null;
  if (plot.byRound || (view.span && view.span.plot === plot.index)) return [part.low, part.high];
  const all = plot.series.flatMap((one) => one.points);
  return [largest(all.filter((p) => p.round < part.low).map((p) => p.x)), smallest(all.filter((p) => p.round > part.high).map((p) => p.x))];
}

// Only a part of a plot, and how many points are before and after it; of some the hub says how many it left there.
function within(plot, view) {
  const part = partOf(plot, view);
  if (!part) return plot;
  const { low, high, of } = part, inside = (p) => of(p) >= low && of(p) <= high;
  let before = 0, after = 0;
  const series = plot.series.map((one) => {
    before += one.before; after += one.after;
    for (const p of one.points) { if (of(p) < low) before += 1; else if (of(p) > high) after += 1; }
    const points = one.points.filter(inside);
    return { ...one, points, earlier: one.earlier.filter(inside), at: new Map(points.map((p) => [p.x, p])), gaps: one.gaps.map((run) => run.filter(inside)).filter((run) => run.length), missed: plot.byRound ? one.missed.filter((x) => x >= low && x <= high) : [], refused: one.refused.filter(inside) };
  });
  const xs = [...new Set(series.flatMap((one) => one.points.map((p) => p.x)))].sort((a, b) => a - b);
  return { ...plot, series, xs, before, after };
}

// How far a site's clock is off, for its own row; "" where it is right, as far as anybody knows.
function skewShort(model, slot) {
  const found = model.story.skews.find((x) => x.slot === slot);
  return found ? `clock ${found.proven ? "" : "up to "}${duration(Math.abs(found.seconds))} ${found.seconds > 0 ? "ahead" : "behind"}` : "";
}

const sameList = (a, b) => a.length === b.length && a.every((x, k) => x === b[k]);

const cellsOf = new WeakMap();
function cellAt(round, slot) {
  if (!cellsOf.has(round)) cellsOf.set(round, new Map(round.cells.map((c) => [c.slot, c])));
  return cellsOf.get(round).get(slot);
}

// How long each site usually takes for a round: the median of those before the newest.
const usualOf = new WeakMap();
function usual(rounds, slot) {
  if (!usualOf.has(rounds)) usualOf.set(rounds, new Map());
  const known = usualOf.get(rounds), newest = rounds.reduce((a, r) => Math.max(a, r.number), 0);
  if (!known.has(slot)) known.set(slot, median(rounds.filter((r) => r.number !== newest).map((r) => cellAt(r, slot)).filter((c) => c && (c.state === "returned" || c.state === "late")).map((c) => c.seconds ?? NaN)));
  return known.get(slot);
}

// Who is awaited in a run that goes on, since when, and who of them is silent for three of his own usual rounds.
function awaited(model, now) {
  const { story } = model;
  if (TERMINAL.has(story.status) || story.status === "PENDING") return null;
  if (story.partial) return null;
  const name = (slot) => (model.bySlot.get(slot) || { name: slot }).name;
  const rounds = [...story.rounds].sort((a, b) => a.number - b.number), last = rounds.at(-1);
  if (!last) {
    const never = story.awaited?.awaited ?? story.sites.filter((x) => !x.last_seen).map((x) => x.slot), since = [...story.history].reverse().find((t) => t.applied)?.at;
    return { kind: "join", slots: never, names: never.map(name), of: story.sites.length, since, silent: [] };
  }
  let kind = "result", slots = [], since = last.started_at;
  if (!last.aggregated_at) slots = last.cells.filter((c) => c.state === "missed" || c.state === "not_asked").map((c) => c.slot);
  else if (!last.task && rounds.some((r) => r.scored.length)) {
    const came = last.cells.filter((c) => c.state === "returned").map((c) => c.slot);
    [kind, since] = ["score", last.aggregated_at];
    slots = came.filter((slot) => !last.scored.includes(slot));
  }
  const silent = slots.map((slot) => {
    const seen = story.sites.find((x) => x.slot === slot)?.last_seen, from = largest([ms(since), seen ? ms(seen) : 0].filter(Number.isFinite));
    return { slot, name: name(slot), usual: usual(story.rounds, slot), from: new Date(from).toISOString(), seconds: (now - from) / 1000 };
  }).filter((x) => x.usual > 0 && x.seconds > Math.max(3 * x.usual, 5));
  const over = Boolean(last.aggregated_at) && !slots.length && story.total_rounds !== null && last.number >= story.total_rounds;
  return { kind: slots.length ? kind : over ? "upload" : last.aggregated_at ? "next" : "average", slots, names: slots.map(name), of: last.cells.length, since, silent, round: last };
}
