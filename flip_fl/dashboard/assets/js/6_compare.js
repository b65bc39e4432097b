// Models beside one another, and sites beside one another.
const OWN = "\u0000own", OTHERS = "\u0000others", WIDEST = 5;

// "Trust_3" and "Trust_3 alone" are the model that Trust_3 trained by itself.
function trainer(model, name) {
  const slot = name.replace(/ alone$/, "");
  return model.bySlot.has(slot) ? slot : null;
}

function modelTitle(model, name) {
  if (name === OWN) return "Own model";
  if (name === OTHERS) return "Other sites\u2019 models (median)";
  const slot = trainer(model, name);
  return slot ? `${model.bySlot.get(slot).name} alone` : cap(name);
}

function samples(model) {
  const made = model.story.samples;
  if (!made) return null;
  const { title, note } = WORDS.pictures, count = made.pictures.length;
  if (!count) return section("pictures", title, null, h("p", { class: "empty" }, made.problem || "There are none."));
  return section("pictures", title, `${count} ${note}`, h("ul", { class: "made" }, made.pictures.map((address, k) =>
    h("li", {}, h("img", { src: address, alt: `Picture ${k + 1} of ${count}`, width: made.width, height: made.height })))));
}

function compared(model) {
  const rows = model.story.baselines;
  if (!rows.length) return null;
  const sites = [...new Set(rows.map((r) => r.scored_on))].sort(naturalOrder);
  const metrics = [...new Set(rows.flatMap((r) => Object.keys(r.metrics)))];
  // many models trained alone become two columns: the site's own, and the median of the others
  const folded = new Set(rows.map((r) => r.model)).size > WIDEST || rows.every((r) => !trainer(model, r.model) || trainer(model, r.model) === r.scored_on);
  const key = (r) => (!folded || !trainer(model, r.model) ? r.model : trainer(model, r.model) === r.scored_on ? OWN : OTHERS);
  const at = new Map();
  for (const r of rows) {
    const place = `${key(r)}\n${r.scored_on}`;
    at.set(place, [...(at.get(place) || []), r.metrics]);
  }
  const columns = [...new Set(rows.map(key))].sort((a, b) => rank(model, a) - rank(model, b) || naturalOrder(a, b));
  const value = (m, c, site) => {
    const all = (at.get(`${c}\n${site}`) || []).filter((x) => Object.hasOwn(x, m)).map((x) => x[m]);
    if (all.length < 2) return all[0];
    const mid = median(all.map((v) => v ?? NaN));
    return Number.isFinite(mid) ? mid : null;
  };
  const head = (text, attrs) => h("th", { scope: "col", class: "num", ...attrs }, text);
  const body = (site, label, get) => h("tr", {}, h("th", { scope: "row" }, label), metrics.map((m) => {
    const values = columns.map((c) => get(m, c)), places = decimals(rows.filter((r) => Object.hasOwn(r.metrics, m)).map((r) => r.metrics[m]));
    const better = buildBetter(m), finite = values.filter(Number.isFinite);
    const best = better && finite.length > 1 ? (better < 0 ? Math.min(...finite) : Math.max(...finite)) : NaN;
    const spreads = new Set(finite.map((v) => number(v, places))).size > 1;
    return values.map((v, k) => {
      const top = spreads && Number.isFinite(v) && number(v, places) === number(best, places);
      return h("td", { class: `num${k ? "" : " first"}${top ? " best" : ""}` }, v === undefined ? "" : v === null ? "not finite" : number(v, places), top ? h("span", { class: "sr" }, " (best)") : null);
    });
  }));
  const names = columns.map((c) => modelTitle(model, c));
  const table = h("table", { class: "models" },
    h("thead", {},
      h("tr", { class: "group" }, h("td", {}), metrics.map((m) => h("th", { scope: "colgroup", colspan: columns.length, class: "first" }, m, h("span", { class: "soft small" }, buildBetter(m) < 0 ? "lower is better" : buildBetter(m) > 0 ? "higher is better" : "")))),
      h("tr", {}, h("th", { scope: "col" }, "Scored on"), metrics.map(() => names.map((n, k) => head(n, { class: `num${k ? "" : " first"}` }))))),
    h("tbody", {}, sites.map((site) => body(site, model.bySlot.has(site) ? siteName(model.bySlot.get(site)) : site, (m, c) => value(m, c, site)))),
    sites.length > 2 ? h("tfoot", {}, body("", "Median", (m, c) => { const v = median(sites.map((x) => value(m, c, x))); return Number.isFinite(v) ? v : undefined; })) : null);
  return section("models", "Models compared", "Each model as the app\u2019s own validate scores it at every site.",
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Models compared" }, table));
}

function rank(model, column) {
  if (/^global/i.test(column)) return 0;
  if (column === OWN || (trainer(model, column) && column !== OTHERS)) return 1;
  return column === OTHERS ? 2 : 3;
}

function buildBetter(label) {
  const text = label.replace(/_/g, " ");
  return LOWER.test(text) ? -1 : HIGHER.test(text) ? 1 : 0;
}

function fairness(first, view) {
  let model = first, plots = [], xs = [];
  const gather = () => {
    plots = model.plots.filter((p) => p.byRound && p.series.length > 1 && p.values.length);
    xs = [...new Set(plots.flatMap((p) => p.common))].sort((a, b) => a - b);
  };
  gather();
  const none = { node: null, renew: (next) => { const part = fairness(next, view); return part.node ? part : null; } };
  if (!plots.length) return none;
  const body = h("tbody", {});
  const said = h("span", {});
  const weighed = h("th", { scope: "col", title: "by the examples that the sites have trained on in the round" }, "Weighted mean");
  const slider = h("input", { type: "range", min: 0, max: xs.length - 1, value: xs.length - 1, "aria-label": "Round to compare the sites in", oninput: () => draw() });
  const out = h("output", { class: "nowrap" });
  // what was counted of a plot stays while plot and round do
  let drawn = new Map(), at = null, node = null, counts = new Map(), weights = "";
  function draw() {
    const x = xs[Number(slider.value)];
    counts = examplesIn(model, x);
    const key = JSON.stringify([...counts]), before = x === at && key === weights ? drawn : new Map();
    at = x;
    weights = key;
    weighed.hidden = !counts.size;
    drawn = new Map();
    out.textContent = x ? `round ${x} of ${xs.at(-1)}` : "final scores";
    slider.setAttribute("aria-valuetext", out.textContent);
    const sentences = [];
    place(body, plots.filter((p) => p.common.includes(x)).map((p) => {
      const [row, sentence] = before.get(p) || rowOf(p, x);
      drawn.set(p, [row, sentence]);
      if (sentence && !sentences.length) sentences.push(sentence);
      return row;
    }));
    said.textContent = sentences.join(" ");
    if (node) rowsHigh(node, drawn.size);
  }
  function rowOf(p, x) {
    const a = across(p, x, new Set()), head = h("th", { scope: "row" }, p.label);
    if (!a.rows.length) return [h("tr", {}, head, h("td", { colspan: 6, class: "soft" }, "no finite value")), ""];
    const best = p.better < 0 ? a.low : a.high, worst = p.better < 0 ? a.high : a.low;
    const named = (r) => h("td", {}, h("span", { class: "site" }, number(r.y, p.places), " ", siteName(r.one), counted(counts, r)));
    const known = a.rows.filter((r) => counts.has(r.one.slot)), sum = known.reduce((all, r) => all + counts.get(r.one.slot), 0);
    const mean = counts.size ? h("td", {}, sum ? number(known.reduce((all, r) => all + r.y * counts.get(r.one.slot), 0) / sum, p.places) : "–", known.length < a.rows.length ? h("small", { class: "soft" }, ` of ${known.length} of ${plural(a.rows.length, "site")}`) : null) : null;
    return [h("tr", {}, head, h("td", { class: "pad" }, strip(p, a, counts)), named(best), h("td", {}, number(a.median, p.places)), mean, named(worst), h("td", { class: "num" }, number(a.high.y - a.low.y, p.places))),
      p.better && a.rows.length > 1 && !p.training ? `Weakest by ${p.label}: ${worst.one.name} with ${number(worst.y, p.places)}, ${number(Math.abs(worst.y - a.median), p.places)} from the median.` : ""];
  }
  draw();
  const controls = h("div", { class: "controls" }, slider, out);
  controls.hidden = xs.length < 2;
  node = section("sites", "Across sites", null,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Across sites" }, h("table", { class: "sites" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Metric"), h("th", { scope: "col", class: "stripcol" }, "Every site, and the median"), ["Best*", "Median"].map((t) => h("th", { scope: "col" }, t)), weighed, h("th", { scope: "col" }, "Worst*"), h("th", { scope: "col", class: "num" }, "Gap"))), body)),
    h("p", { class: "small soft", id: "better-note" }, "* Highest and lowest where the name does not tell which way is better."));
  node.querySelector(".head").append(h("p", {}, said), controls);
  rowsHigh(node, drawn.size);
  // whoever looks at the last round sees the next one, too; whoever chose a round stays there
  const renew = (next) => {
    if (selecting(node) || (sameList(next.plots, model.plots) && next.story.rounds === model.story.rounds)) return null;
    const chosen = xs[Number(slider.value)], newest = Number(slider.value) === xs.length - 1;
    model = next;
    gather();
    slider.max = String(xs.length - 1);
    slider.value = String(newest ? xs.length - 1 : Math.max(0, xs.indexOf(chosen)));
    controls.hidden = xs.length < 2;
    draw();
    return null;
  };
  return { node, renew };
}

const counted = (counts, r) => (counts.has(r.one.slot) ? h("small", { class: "soft" }, ` n = ${counts.get(r.one.slot)}`) : null);

function strip(plot, a, counts) {
  const low = a.low.y, span = a.high.y - low;
  const px = (y) => `${(span ? 2 + ((y - low) / span) * 96 : 50).toFixed(2)}%`;
  const told = (r) => `${r.one.name} ${number(r.y, plot.places)}${counts.has(r.one.slot) ? ` (n = ${counts.get(r.one.slot)})` : ""}`;
  return s("svg", { class: "strip", role: "img", "aria-label": `${plot.label}: ${a.rows.map((r) => told(r)).join(", ")}` },
    s("line", { class: "rail", x1: "0", x2: "100%", y1: 11, y2: 11 }),
    s("line", { class: "mid", x1: px(a.median), x2: px(a.median), y1: 3, y2: 19 }),
    a.rows.map((r) => s("circle", { class: `c${r.one.hue}`, cx: px(r.y), cy: 11, r: 4.5 }, s("title", {}, told(r)))));
}
