// Each round of an evaluation is one of its models.
const evaluates = (story) => story.rounds.length > 0 && story.rounds.every((r) => r.task === "evaluate");

// The page is a pure function of the story; what a person chose to see is kept apart, in the view.
function headline(model) {
  const { story } = model, head = story.headline, over = TERMINAL.has(story.status);
  const sites = story.sites.length || model.sites.length;
  const last = [...story.rounds].sort((a, b) => a.number - b.number).at(-1);
  const full = story.rounds.filter((r) => r.expected && r.returned === r.expected).length;
  const what = evaluates(story) ? "model" : "round";
  const facts = [];
  const add = (name, value, note) => facts.push(h("div", {}, h("dt", {}, name), h("dd", {}, value, note ? h("small", {}, note) : null)));
  const complete = story.rounds.filter((r) => r.aggregated_at).length;
  add(what === "model" ? "Models" : "Rounds", story.total_rounds ? `${complete} of ${story.total_rounds}` : String(complete), complete < (last ? last.number : 0) ? `round ${last.number} ${over ? "not completed" : "under way"}` : complete ? "completed" : null);
  add("Sites", String(sites), !story.rounds.length ? null : full === story.rounds.length ? `all in every ${what}` : `all in ${full} of ${plural(story.rounds.length, what)}`);
  if (Number.isFinite(model.end) && Number.isFinite(model.start) && model.end >= model.start && story.status !== "PENDING") {
    add(over ? "Took" : "Running for", duration(((over ? model.end : Math.max(model.end, ms(story.generated_at))) - model.start) / 1000), time(new Date(model.start).toISOString(), `${day(new Date(model.start).toISOString())}, ${clock(new Date(model.start).toISOString()).slice(0, 5)} UTC`));
  }
  const stage = last && last.stage, late = model.plots.filter((p) => stage && p.label.startsWith(`${stage}/`));
  const scored = (late.length ? late : model.plots).filter((p) => p.byRound && !p.training && p.better && p.values.length);
  const main = scored.find((p) => p.better > 0 && /auc|dice|acc/i.test(p.label) && /auc|dice/i.test(p.label)) || scored.find((p) => p.better > 0) || scored[0];
  if (main) {
    const x = main.xs.filter((v) => across(main, v, new Set()).rows.length).at(-1), a = across(main, x, new Set());
    if (a.rows.length) add(main.label, number(a.median, main.places), a.rows.length > 1 ? `median of ${plural(a.rows.length, "site")}, ${x ? `round ${x}` : "final"}` : x ? `round ${x}` : "final");
  }
  add("Failures", story.failures.length ? String(story.failures.length) : "none", story.failures.length ? h("a", { href: "#failures" }, "see what failed") : null);
  if (story.losses.length) add("Lost reports", String(story.losses.length), h("a", { href: "#losses" }, "see what was lost"));
  if (story.results) add("Results", bytes(story.results.size_bytes), "stored");
  const notes = [];
  if (story.reason && !head.text.includes(story.reason)) notes.push(`Reason: ${story.reason}`);
  if (!over && last && !last.aggregated_at) {
    const waiting = last.cells.filter((c) => c.state === "missed").map((c) => (model.bySlot.get(c.slot) || { name: c.slot }).name);
    if (waiting.length) notes.push(`Waiting for ${listing(waiting, 4)} (${last.returned ?? last.cells.filter((c) => c.state === "returned").length} of ${last.expected ?? last.cells.length} in)${last.started_at ? `, since ${clock(last.started_at)} UTC` : ""}.`);
  }
  return h("section", { class: `card state ${head.tone}`, id: "top", "aria-label": "State of the run" },
    h("div", { class: "eyebrow" }, h("h1", {}, story.model.name), story.model.project ? h("span", {}, story.model.project) : null, h("code", { class: "small", title: "model id" }, story.model.id)),
    h("div", { class: "line" }, icon(head.tone), h("p", {}, h("b", {}, head.word), head.text.length > head.word.length ? h("span", { class: "detail" }, head.text.slice(head.word.length).replace(/ - /g, " – ")) : null)),
    story.model.description ? h("p", { class: "more" }, story.model.description) : null,
    Object.keys(story.model.facts || {}).length ? h("p", { class: "more small" }, Object.entries(story.model.facts).map(([name, value], k) => [k ? " · " : "", `${name} `, h("b", {}, value)])) : null,
    notes.map((n) => h("p", { class: "more" }, n)),
    h("dl", { class: "facts" }, facts));
}

function bar(model, view, parts) {
  const { story } = model;
  const theme = h("select", { "aria-label": "Colours", onchange: (e) => { view.theme = e.target.value; applyTheme(view); view.save(); } },
    [["", "System"], ["light", "Light"], ["dark", "Dark"]].map(([v, t]) => h("option", { value: v }, t)));
  theme.value = view.theme;
  return h("header", { class: "bar" }, h("div", { class: "wrap" },
    h("a", { class: "mark", href: "#top", "aria-label": "To the top", title: story.headline.text }, icon(story.headline.tone)),
    h("nav", { "aria-label": "On this page" }, parts.map((p) => h("a", { href: `#${p.id}` }, p.querySelector("h2").textContent))),
    h("div", { class: "tools" }, button("Save data", { class: "wide", title: "the whole story as JSON" }, () => download("story.json", new Blob([JSON.stringify(story, null, 2)], { type: "application/json" }))),
      button("Print", { class: "wide" }, () => window.print()), theme)));
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
function applyTheme(view) {
  document.documentElement.dataset.theme = view.theme || (dark.matches ? "dark" : "light");
}

// What a person chose lives in the address, so that a link shows the same and Back works offline.
function readView(model) {
  const given = new URLSearchParams(location.search), hidden = new Set();
  for (const n of (given.get("hide") || "").split(".")) if (n !== "" && model.sites[Number(n)]) hidden.add(model.sites[Number(n)].slot);
  const smoothing = Number(given.get("smooth"));
  const view = { hidden, smooth: [0.3, 0.6, 0.9].includes(smoothing) ? smoothing : 0, theme: ["light", "dark"].includes(given.get("theme")) ? given.get("theme") : "", focus: null, setFocus() {}, redraw() {}, resize() {}, fit() {}, brief() {} };
  view.save = () => {
    const out = new URLSearchParams();
    if (view.hidden.size) out.set("hide", model.sites.map((x, k) => (view.hidden.has(x.slot) ? k : null)).filter((k) => k !== null).join("."));
    if (view.smooth) out.set("smooth", String(view.smooth));
    if (view.theme) out.set("theme", view.theme);
    const query = out.toString();
    try { window.history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash); } catch { /* some viewers forbid it */ }
  };
  return view;
}

function tabTitle(story) {
  const mark = { good: "✓", warn: "!", bad: "✕", active: "▸", quiet: "■" }[story.headline.tone];
  const done = story.rounds.filter((r) => r.aggregated_at).length;
  return clean(`${mark} ${story.total_rounds ? `${done}/${story.total_rounds} ` : ""}${story.model.name} – ${story.headline.word}`);
}

function render(story, root) {
  const model = buildModel(story), view = readView(model);
  applyTheme(view);
  dark.addEventListener("change", () => applyTheme(view));
  document.title = tabTitle(story);
  const top = headline(model), fail = failures(model), lost = losses(model), made = samples(model), table = compared(model), chart = curves(model, view), fair = fairness(model, view);
  const rounds = roundsGrid(model), result = results(model), log = history(model), feed = activity(model, view);
  const parts = [fail, lost, made, table, chart, fair, rounds, result, log, feed].filter(Boolean);
  const pairOf = (a, b) => (a && b ? h("div", { class: "pair" }, a, b) : a || b);
  // few rounds leave room beside them
  const narrow = story.rounds.length <= 8;
  const middle = narrow ? pairOf(h("div", { class: "stack" }, rounds, result), log) : [rounds, pairOf(result, log)];
  const main = h("main", { id: "main", class: "wrap", tabindex: "-1" }, top, fail, lost, made, table, chart, fair, middle, feed);
  root.replaceChildren(bar(model, view, parts), main,
    h("footer", { class: "wrap" }, `Drawn from what the hub knew on ${day(story.generated_at)}, ${clock(story.generated_at)} UTC. All times are UTC.`),
    h("div", { id: "said", class: "sr", role: "status", "aria-live": "polite" }));
  view.redraw();
  let waiting = 0;
  new ResizeObserver(() => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => { if (!printing) view.resize(); }); }).observe(main);
  let printing = false;
  // paper is narrower than the window: drawn anew at its width, so that the letters keep their size
  window.addEventListener("beforeprint", () => { printing = true; for (const d of document.querySelectorAll("details:not([open])")) { d.open = true; d.dataset.folded = ""; } view.fit(model.plots.length > 1 ? 340 : 700); view.brief(true); });
  window.addEventListener("afterprint", () => { printing = false; for (const d of document.querySelectorAll("details[data-folded]")) { d.open = false; delete d.dataset.folded; } view.redraw(); view.brief(false); });
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

async function inlined(node) {
  const packed = Uint8Array.from(atob(node.textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function begin() {
  const root = document.getElementById("page"), data = document.getElementById("story");
  render(await inlined(data), root);
  document.documentElement.dataset.ready = "true";
}

// Without a working script the page keeps what was written into it.
begin().catch((error) => { document.documentElement.dataset.ready = "failed"; console.error(error); });
