// Models beside one another, and sites beside one another.
function modelTitle(model, name) {
  const known = { global: "Global model", central: "Trained centrally", centralised: "Trained centrally", centralized: "Trained centrally", own: "Own model", local: "Own model" };
  return known[name.toLowerCase()] || (model.bySlot.has(name) ? `${model.bySlot.get(name).name}'s own model` : name);
}

function compared(model) {
  const rows = model.story.baselines;
  if (!rows.length) return null;
  const sites = [...new Set(rows.map((r) => r.scored_on))].sort(naturalOrder);
  const metrics = [...new Set(rows.flatMap((r) => Object.keys(r.metrics)))];
  // a model that is scored on its own site only belongs in one column with the others of its kind
  const own = new Set(rows.filter((r) => r.model === r.scored_on).map((r) => r.model).filter((m) => rows.every((r) => r.model !== m || r.scored_on === m)));
  const key = (r) => (own.has(r.model) ? "own" : r.model);
  const columns = [...new Set(rows.map(key))].sort((a, b) => rank(a) - rank(b));
  const at = new Map(rows.map((r) => [`${key(r)}\n${r.scored_on}`, r.metrics]));
  const value = (m, c, site) => (at.get(`${c}\n${site}`) || {})[m];
  const head = (text, attrs) => h("th", { scope: "col", class: "num", ...attrs }, text);
  const body = (site, label, get) => h("tr", {}, h("th", { scope: "row" }, label), metrics.map((m) => {
    const values = columns.map((c) => get(m, c)), places = decimals(rows.map((r) => r.metrics[m]));
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
  const kinds = columns.includes("own") ? "The global model beside each site's own and a centrally trained one" : "The models beside one another";
  return section("models", "Models compared", `${kinds}, on every site's held-out patients.`,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Models compared" }, table));
}

function rank(column) {
  const order = ["global", "own", "central", "centralised", "centralized"];
  const at = order.indexOf(column.toLowerCase());
  return at < 0 ? order.length : at;
}

function buildBetter(label) {
  const text = label.replace(/_/g, " ");
  return LOWER.test(text) ? -1 : HIGHER.test(text) ? 1 : 0;
}

function fairness(model, view) {
  const plots = model.plots.filter((p) => p.byRound && p.series.length > 1 && p.values.length);
  if (!plots.length) return null;
  const xs = [...new Set(plots.flatMap((p) => p.xs))].sort((a, b) => a - b);
  const body = h("tbody", {});
  const said = h("span", {});
  const slider = h("input", { type: "range", min: 0, max: xs.length - 1, value: xs.length - 1, "aria-label": "Round to compare the sites in", oninput: () => draw() });
  const out = h("output", { class: "nowrap" });
  function draw() {
    const x = xs[Number(slider.value)];
    out.textContent = x ? `round ${x} of ${xs.at(-1)}` : "final scores";
    slider.setAttribute("aria-valuetext", out.textContent);
    const sentences = [];
    body.replaceChildren(...plots.filter((p) => p.xs.includes(x)).map((p) => {
      const a = across(p, x, new Set());
      if (!a.rows.length) return h("tr", {}, h("th", { scope: "row" }, p.label), h("td", { colspan: 5, class: "soft" }, "no finite value"));
      const best = p.better < 0 ? a.low : a.high, worst = p.better < 0 ? a.high : a.low;
      if (p.better && !sentences.length && a.rows.length > 1 && !/^train_/.test(p.label)) sentences.push(`Weakest by ${p.label}: ${worst.one.name} with ${number(worst.y, p.places)}, ${number(Math.abs(worst.y - a.median), p.places)} from the median.`);
      const named = (r) => h("td", {}, h("span", { class: "site" }, number(r.y, p.places), " ", siteName(r.one)));
      return h("tr", {}, h("th", { scope: "row" }, p.label), h("td", { class: "pad" }, strip(p, a)), named(best), h("td", {}, number(a.median, p.places)), named(worst), h("td", { class: "num" }, number(a.high.y - a.low.y, p.places)));
    }));
    said.textContent = sentences.join(" ");
  }
  draw();
  const node = section("sites", "Across sites", null,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Across sites" }, h("table", { class: "sites" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Metric"), h("th", { scope: "col", class: "stripcol" }, "Every site, and the median"), ["Best*", "Median", "Worst*"].map((t) => h("th", { scope: "col" }, t)), h("th", { scope: "col", class: "num" }, "Gap"))), body)),
    h("p", { class: "small soft", id: "better-note" }, "* Highest and lowest where the name does not tell which way is better."));
  node.querySelector(".head").append(h("p", {}, said), xs.length > 1 ? h("div", { class: "controls" }, slider, out) : "");
  return node;
}

function strip(plot, a) {
  const low = a.low.y, span = a.high.y - low;
  const px = (y) => `${(span ? 2 + ((y - low) / span) * 96 : 50).toFixed(2)}%`;
  return s("svg", { class: "strip", role: "img", "aria-label": `${plot.label}: ${a.rows.map((r) => `${r.one.name} ${number(r.y, plot.places)}`).join(", ")}` },
    s("line", { class: "rail", x1: "0", x2: "100%", y1: 11, y2: 11 }),
    s("line", { class: "mid", x1: px(a.median), x2: px(a.median), y1: 3, y2: 19 }),
    a.rows.map((r) => s("circle", { class: `c${r.one.hue}`, cx: px(r.y), cy: 11, r: 4.5 }, s("title", {}, `${r.one.name} ${number(r.y, plot.places)}`))));
}
