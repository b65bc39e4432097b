// Two to five runs beside one another: what differs, and each metric of all of them in one chart.
function factsOf(story) {
  const first = story.history.find((t) => t.applied && t.status === "INITIATED"), last = story.history.filter((t) => t.applied && TERMINAL.has(t.status)).at(-1);
  const over = TERMINAL.has(story.status) && last && first;
  return {
    State: story.headline.text.replace(/ - /g, " – "), Project: story.model.project, Description: story.model.description, ...story.model.facts, ...story.model.settings,
    Rounds: story.total_rounds ? `${story.rounds.filter((r) => r.aggregated_at).length} of ${story.total_rounds}` : String(story.rounds.length),
    Sites: story.sites.map((x) => x.code || x.trust).sort(naturalOrder).join(", "), Begun: first ? `${day(first.at)}, ${clock(first.at).slice(0, 5)} UTC` : "not yet",
    Took: over ? duration((ms(last.at) - ms(first.at)) / 1000) : "", Failures: String(story.failures.length), "Bundle SHA-256": story.results?.sha256 || "",
  };
}

// A plot whose series are runs: the median of the sites, or one site of each.
function overlaid(models, label, xLabel, site, index) {
  const spread = new Map();
  const series = models.map((m, k) => {
    const found = m.plots.find((p) => p.label === label && p.xLabel === xLabel), slot = `run_${k + 1}`;
    if (!found) return null;
    // local steps stand between rounds: runs with other steps a round are compared where they are
    const plot = onAxis(found, "rounds", m);
    const points = plot.xs.map((x) => {
      const a = site ? { rows: plot.series.filter((one) => one.slot === site && one.at.has(x)) } : across(plot, x, new Set());
      if (!a.rows.length) return null;
      const p = site ? a.rows[0].at.get(x) : { x, y: a.median, round: [...plot.series].map((one) => one.at.get(x)).find(Boolean).round };
      if (!site) spread.set(`${slot} ${x}`, [a.low.y, a.high.y]);
      return p;
    }).filter(Boolean);
    return points.length ? { slot, name: m.name, points } : null;
  }).filter(Boolean);
  const bySlot = new Map(models.map((m, k) => [`run_${k + 1}`, { slot: `run_${k + 1}`, name: m.name, hue: k, dash: "" }]));
  const plot = buildPlot({ label, x_label: xLabel, series }, index, bySlot);
  // a run that ended earlier misses nothing
  return { ...plot, ...(plot.byRound ? {} : { xLabel: "round", axis: "rounds" }), series: plot.series.map((one) => ({ ...one, missed: [] })), spread: site ? null : spread };
}

function lastOfEach(plot) {
  const named = plot.series.filter((one) => one.gaps.length).map((one) => { const p = one.gaps.at(-1).at(-1); return `${one.name} ${number(p.y, plot.places)}${plot.byRound ? ` in round ${p.x}` : ""}`; });
  return named.length ? `Last: ${listing(named, 5)}.` : "No finite value.";
}

async function comparePage(root) {
  const view = plainView(), given = new URLSearchParams(location.search), ids = [...new Set((given.get("runs") || "").split(",").filter((x) => /^[0-9a-f-]{36}$/i.test(x)))], beyond = ids.splice(MOST_COMPARED).length;
  const main = h("main", { id: "main", class: "wrap", tabindex: "-1" });
  root.replaceChildren(frame("", view), main, h("footer", { class: "wrap" }, "All times are UTC."), ...regions());
  const done = (...nodes) => { main.replaceChildren(...nodes); document.documentElement.dataset.ready = "true"; };
  if (ids.length < 2) { done(h("section", { class: "card" }, h("h1", { class: "shown" }, "Compare runs"), h("p", { class: "empty" }, "Choose two to five runs in the ", h("a", { href: page("") }, "list of runs"), "."))); return; }
  let stories;
  try { stories = await Promise.all(ids.map((id) => read(`model/${id}/story?plots=points&feed=1`))); } catch (error) { done(trouble(error)); return; }
  const counts = new Map();
  const models = stories.map((story) => {
    const n = (counts.get(story.model.name) || 0) + 1;
    counts.set(story.model.name, n);
    return Object.assign(buildModel(story), { name: n > 1 ? `${story.model.name} (${n})` : story.model.name });
  });
  const facts = stories.map(factsOf), names = [...new Set(facts.flatMap(Object.keys))];
  const differing = names.filter((n) => new Set(facts.map((f) => f[n] || "")).size > 1), same = names.filter((n) => !differing.includes(n) && facts[0][n]);
  const mark = (k) => ({ slot: "", name: models[k].name, hue: k, dash: "" });
  const table = h("section", { class: "card", "aria-labelledby": "compare-h" }, h("div", { class: "head" }, h("h1", { id: "compare-h", class: "shown" }, "Compare runs"), h("p", {}, [differing.length ? "What differs." : "Nothing that the hub knows of these runs differs.", beyond ? ` At most ${MOST_COMPARED} runs are compared: ${plural(beyond, "other")} of the link left out.` : ""])),
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "What differs" }, h("table", { class: "differ" }, h("thead", {}, h("tr", {}, h("td", {}), models.map((m, k) => h("th", { scope: "col" }, h("a", { href: page(`models/${ids[k]}`) }, siteName(mark(k))))))),
      h("tbody", {}, differing.map((n) => h("tr", {}, h("th", { scope: "row" }, n), facts.map((f) => h("td", {}, f[n] || "–"))))))),
    same.length ? h("details", { class: "small" }, h("summary", {}, `The same in all: ${plural(same.length, "setting")}`), h("dl", { class: "pairs" }, same.map((n) => [h("dt", {}, n), h("dd", {}, facts[0][n])]))) : null);
  const keys = [...new Map(models.flatMap((m) => m.plots.map((p) => [`${p.label}\n${p.xLabel}`, [p.label, p.xLabel]]))).values()];
  const slots = [...new Set(models.flatMap((m) => m.sites.map((x) => x.slot)))].sort(naturalOrder);
  const shown = { ...readView({ sites: [] }), hidden: new Set(), model: { story: { rounds: [] } }, live: false, summarise: lastOfEach, save() {} };
  const site = h("select", { "aria-label": "Whose values", onchange: () => draw() }, h("option", { value: "" }, "Median and range of all sites"), slots.map((x) => h("option", { value: x }, `Only ${x}`)));
  site.value = slots.includes(given.get("site")) ? given.get("site") : "";
  const grid = h("div", { class: "charts", "data-cols": keys.length === 1 ? 1 : 2 });
  let figures = [];
  function draw() {
    const out = new URLSearchParams(location.search);
    out.delete("site");
    if (site.value) out.set("site", site.value);
    keepQuery(out);
    figures = keys.map(([label, xLabel], k) => figure(overlaid(models, label, xLabel, site.value, k), shown));
    grid.replaceChildren(...figures.map((f) => f.node));
    figures.forEach((f) => f.draw(true));
  }
  const charts = keys.length ? section("curves", "Metrics", "One line a run. The band reaches from the lowest to the highest site.", h("ul", { class: "legend", "aria-label": "Runs" }, models.map((m, k) => h("li", {}, siteName(mark(k))))), grid)
    : section("curves", "Metrics", null, h("p", { class: "empty" }, "None of these runs has a metric yet."));
  if (keys.length) charts.querySelector(".head").append(h("div", { class: "controls" }, site));
  done(table, charts);
  if (keys.length) draw();
  new ResizeObserver(() => figures.forEach((f) => f.draw(false))).observe(main);
}

async function listPage(root) {
  const make = { runs: runsPage, trusts: trustsPage, compare: comparePage }[BODY().page];
  if (make) return make(root);
  root.prepend(frame("", plainView()));
  document.documentElement.dataset.ready = "true";
}
