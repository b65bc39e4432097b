// Each round of an evaluation is one of its models.
const evaluates = (story) => story.rounds.length > 0 && story.rounds.every((r) => r.task === "evaluate");

// The page is a pure function of the story; what a person chose to see is kept apart, in the view.
function headline(model, view) {
  const { story } = model, head = story.headline, over = TERMINAL.has(story.status);
  const sites = story.sites.length || model.sites.length;
  const last = [...story.rounds].sort((a, b) => a.number - b.number).at(-1);
  // of a round that is open nobody knows yet
  const closed = over ? story.rounds : story.rounds.filter((r) => r.aggregated_at), full = closed.filter((r) => r.expected && r.returned === r.expected).length;
  const what = evaluates(story) ? "model" : "round";
  const facts = [];
  const add = (name, value, note) => facts.push(h("div", {}, h("dt", {}, name), h("dd", {}, value, note ? h("small", {}, note) : null)));
  const complete = story.rounds.filter((r) => r.aggregated_at).length;
  add(what === "model" ? "Models" : "Rounds", story.total_rounds ? `${complete} of ${story.total_rounds}` : String(complete), complete < (last ? last.number : 0) ? `round ${last.number} ${over ? "not completed" : "under way"}` : complete ? "completed" : null);
  add("Sites", String(sites), !closed.length ? null : full === closed.length ? `all in every ${what}` : `all in ${full} of ${plural(closed.length, what)}`);
  if (Number.isFinite(model.end) && Number.isFinite(model.start) && model.end >= model.start && story.status !== "PENDING") {
    const begun = new Date(model.start).toISOString();
    add(over ? "Took" : "Running for", over ? duration((model.end - model.start) / 1000) : ago(begun, view.now(), ""), time(new Date(model.start).toISOString(), `${day(new Date(model.start).toISOString())}, ${clock(new Date(model.start).toISOString()).slice(0, 5)} UTC`));
  }
  const stage = last && last.stage, late = model.plots.filter((p) => stage && p.label.startsWith(`${stage}/`));
  const scored = (late.length ? late : model.plots).filter((p) => p.byRound && !p.training && p.better && p.values.length);
  const main = scored.find((p) => p.better > 0 && /auc|dice|acc/i.test(p.label) && /auc|dice/i.test(p.label)) || scored.find((p) => p.better > 0) || scored[0];
  if (main) {
    let k = main.xs.length - 1;
    while (k > 0 && !across(main, main.xs[k], new Set()).rows.length) k -= 1;
    const x = main.xs[k], a = across(main, x, new Set());
    if (a.rows.length) add(main.label, number(a.median, main.places), a.rows.length > 1 ? `median of ${plural(a.rows.length, "site")}, ${x ? `round ${x}` : "final"}` : x ? `round ${x}` : "final");
  }
  add("Failures", story.failures.length ? String(story.failures.length) : "none", story.failures.length ? h("a", { href: "#failures" }, "see what failed") : null);
  if (story.losses.length) add("Lost reports", String(story.losses.length), h("a", { href: "#losses" }, "see what was lost"));
  if (story.results) add("Results", bytes(story.results.size_bytes), "stored");
  const notes = [], waits = awaited(model, view.now());
  if (story.reason && !head.text.includes(story.reason)) notes.push(`Reason: ${story.reason}`);
  if (waits && waits.slots.length) notes.push(waitingWords(waits, story, view));
  if (waits && waits.silent.length) {
    const some = waits.silent.slice(0, 4), rest = waits.silent.length - some.length;
    notes.push(h("b", { class: "stall" }, "No news from ", some.map((x, k) => [k ? ", from " : "", `${x.name} for `, ago(x.from, view.now(), ""), ` (usual round ${duration(x.usual)})`]), rest ? ` and from ${rest} more` : ""));
  }
  const next = nextStep(model, waits, view);
  if (next) notes.push(next);
  if (story.skews.length) notes.push(skewWords(model));
  const tone = waits && waits.silent.length && head.tone === "active" ? "warn" : head.tone;
  return h("section", { class: `card state ${tone}`, id: "top", "aria-label": "State of the run" },
    h("div", { class: "eyebrow" }, h("h1", {}, story.model.name), story.model.project ? h("span", {}, story.model.project) : null, h("code", { class: "small", title: "model id" }, story.model.id)),
    h("div", { class: "line" }, icon(tone), h("p", {}, h("b", {}, head.word), head.text.length > head.word.length ? h("span", { class: "detail" }, head.text.slice(head.word.length).replace(/ - /g, " – ")) : null)),
    notes.map((n) => h("p", { class: "more" }, n)),
    story.model.description ? h("p", { class: "more" }, story.model.description) : null,
    Object.keys(story.model.facts || {}).length ? h("p", { class: "more small" }, Object.entries(story.model.facts).map(([name, value], k) => [k ? " · " : "", `${name} `, h("b", {}, value)])) : null,
    Object.keys(story.model.settings || {}).length ? h("details", { class: "more small", id: "settings" }, h("summary", {}, plural(Object.keys(story.model.settings).length, "setting")), h("dl", { class: "pairs" }, Object.entries(story.model.settings).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))) : null,
    h("dl", { class: "facts" }, facts));
}

// Times are those of whoever sent them: a clock that is off is said beside them.
function skewWords(model) {
  return model.story.skews.map(({ slot, seconds, proven }) => {
    const who = slot === null ? "The FL server" : (model.bySlot.get(slot) || { name: slot }).name, off = duration(Math.abs(seconds));
    return `${who}\u2019s clock is ${proven ? "at least" : "up to"} ${off} ${seconds > 0 ? "ahead of" : "behind"} the hub\u2019s${proven ? "" : ", or its reports were held up"}. `;
  });
}

function waitingWords(waits, story, view) {
  const names = listing(waits.names, 4), since = waits.since ? [", since ", clock(waits.since), " UTC (", ago(waits.since, view.now(), ""), ")"] : [];
  if (waits.kind === "join" && story.awaited) {
    const { there, awaited, needs, until } = story.awaited, enough = there.length >= needs;
    const ends = until ? [enough ? "; begins without them at " : "; gives up at ", time(until, clock(until).slice(0, 5)), " UTC"] : [];
    return [`Waiting for ${names} (${there.length} of ${there.length + awaited.length} connected, needs ${needs})`, since, ends, "."];
  }
  if (waits.kind === "join") return [`Waiting for ${names} (${waits.of - waits.slots.length} of ${waits.of} heard of)`, since, "."];
  const came = waits.of - waits.slots.length;
  return [waits.kind === "score" ? `Waiting for the scores of ${names} (${waits.round.scored.length} of ${waits.round.scored.length + waits.slots.length} in)` : `Waiting for ${names} (${came} of ${waits.of} in)`, since, "."];
}

// What happens next by itself, and when, as far as the run so far tells.
function nextStep(model, waits, view) {
  const { story } = model;
  if (story.status === "PENDING") return "Nothing is awaited: the run begins when somebody submits it.";
  if (story.partial) return "A big run: its rounds and its activity are being fetched.";
  if (!waits) return null;
  const last = [...(story.sites || [])].map((x) => ms(x.last_seen)).concat(story.feed.map((x) => ms(x.at))).filter(Number.isFinite);
  const news = last.length ? ["Last news ", ago(new Date(largest(last)).toISOString(), view.now()), "."] : ["No news yet."];
  const done = story.rounds.filter((r) => r.started_at && r.aggregated_at), begun = done.map((r) => ms(r.started_at)).sort((a, b) => a - b);
  const each = begun.length > 1 ? median(begun.slice(1).map((x, k) => x - begun[k])) : NaN;
  const left = story.total_rounds ? story.total_rounds - done.length : NaN;
  const step = { join: "round 1 begins when enough sites are there", result: "their results are averaged when they are in", score: waits.round && waits.round.number === story.total_rounds ? "results are stored when they are in" : "the next round begins when they are in", average: "the results are averaged", next: `round ${waits.round ? waits.round.number + 1 : 1} begins`, upload: "results are stored and checked" }[waits.kind];
  const out = [...news, ` Next: ${step}.`];
  // what was said is not to be said anew with every second: the end is told to the minute
  if (left > 0 && Number.isFinite(each)) { const end = largest(begun) + each * (left + 1); out.push(end > view.now() ? ` At this pace the last round ends about ${clock(new Date(Math.ceil(end / 60000) * 60000).toISOString()).slice(0, 5)} UTC.` : " Slower than the rounds before."); }
  return out;
}

function themeChoice(view) {
  const theme = h("select", { "aria-label": "Colours", onchange: (e) => { view.theme = e.target.value; applyTheme(view); view.save(); } },
    [["", "System"], ["light", "Light"], ["dark", "Dark"]].map(([v, t]) => h("option", { value: v }, t)));
  theme.value = view.theme;
  return theme;
}

const BRIEF = { times: "Times", differences: "Differences", history: "History", models: "Models" };
function bar(story, view) {
  const nav = h("nav", { "aria-label": "On this page" }), mark = h("a", { class: "mark", href: view.home || "#top", "aria-label": view.home ? "All runs" : "To the top" });
  const node = h("header", { class: "bar" }, h("div", { class: "wrap" }, mark, nav,
    h("div", { class: "tools" }, view.tools || null, button("Save data", { class: "wide", title: "the whole story as JSON" }, () => download("story.json", new Blob([JSON.stringify(view.model.story, null, 2)], { type: "application/json" }))),
      button("Print", { class: "wide" }, () => window.print()), themeChoice(view))));
  const renew = (model, parts, tone) => {
    mark.title = clean(model.story.headline.text);
    mark.replaceChildren(icon(tone), view.home ? h("span", {}, "Runs") : "");
    const ids = parts.map((p) => p.id).join();
    if (nav.dataset.of !== ids) { nav.dataset.of = ids; nav.replaceChildren(...parts.map((p) => h("a", { href: `#${p.id}` }, BRIEF[p.id] || p.querySelector("h2").textContent))); }
  };
  return { node, renew };
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
function applyTheme(view) {
  document.documentElement.dataset.theme = view.theme || (dark.matches ? "dark" : "light");
}

const themeOf = (given) => (["light", "dark"].includes(given.get("theme")) ? given.get("theme") : "");

function keepQuery(out) {
  const query = out.toString();
  try { window.history.replaceState(null, "", location.pathname + (query ? `?${query}` : "") + location.hash); } catch { /* some viewers forbid it */ }
}

function readSpan(text) {
  const [plot, low, high] = (text || "").split("_").map(Number);
  return text && Number.isInteger(plot) && low <= high && Number.isFinite(high - low) ? { plot, low, high } : null;
}

// What a person chose lives in the address, so that a link shows the same and Back works offline.
function readView(model) {
  const given = new URLSearchParams(location.search), hidden = new Set();
  for (const n of (given.get("hide") || "").split(".")) if (n !== "" && model.sites[Number(n)]) hidden.add(model.sites[Number(n)].slot);
  const smoothing = Number(given.get("smooth")), whole = (name) => (/^\d{1,9}$/.test(given.get(name) || "") ? Number(given.get(name)) : null);
  const view = {
    model, hidden, smooth: [0.3, 0.6, 0.9].includes(smoothing) ? smoothing : 0, theme: themeOf(given), log: given.get("log") === "1", x: ["rounds", "elapsed", "clock"].includes(given.get("x")) ? given.get("x") : "",
    from: whole("from"), to: whole("to"), span: readSpan(given.get("span")), focus: null, now: () => ms(view.model.story.generated_at), room: (holder) => holder.clientWidth, setFocus() {}, redraw() {}, resize() {}, fit() {}, brief() {}, zoom() {}, look() {}, rest() {},
  };
  view.save = () => {
    const out = new URLSearchParams();
    if (view.hidden.size) out.set("hide", view.model.sites.map((x, k) => (view.hidden.has(x.slot) ? k : null)).filter((k) => k !== null).join("."));
    if (view.smooth) out.set("smooth", String(view.smooth));
    if (view.x) out.set("x", view.x);
    if (view.log) out.set("log", "1");
    if (view.from !== null) out.set("from", String(view.from));
    if (view.to !== null) out.set("to", String(view.to));
    if (view.span) out.set("span", [view.span.plot, view.span.low, view.span.high].join("_"));
    if (view.theme) out.set("theme", view.theme);
    keepQuery(out);
  };
  return view;
}

function tabTitle(story, silent, nameOf) {
  const mark = silent.length ? "!" : { good: "✓", warn: "!", bad: "✕", active: "▸", quiet: "■" }[story.headline.tone];
  const done = story.rounds.filter((r) => r.aggregated_at).length;
  const blamed = story.status === "ERROR" ? story.failures.at(-1)?.slots || [] : [];
  if (blamed.length) silent = blamed.map((slot) => ({ name: nameOf(slot) }));
  return clean(`${mark} ${story.total_rounds ? `${done}/${story.total_rounds} ` : ""}${silent.length ? `${silent.length === 1 ? silent[0].name : plural(silent.length, "site")} ${blamed.length ? "failed" : "silent"} – ` : ""}${story.model.name} – ${story.headline.word}`);
}

// A part that is drawn whole whenever it is another one; while somebody marks a text in it, it waits.
function drawnWhole(make) {
  return (first, view) => {
    const part = { node: make(first, view), renew(model) {
      const next = make(model, view), old = part.node;
      if (!old && !next) return null;
      if (old && next && (selecting(old) || old.isEqualNode(next))) return null;
      return drawnWhole(make)(model, view);
    } };
    return part;
  };
}

// Drawn where the report was written, and the same with and without a script: the page takes it over as it stands.
const privacy = () => document.getElementById("privacy");

const PARTS = [["top", drawnWhole(headline)], ["failures", drawnWhole(failures)], ["losses", drawnWhole(losses)], ["pictures", drawnWhole(samples)], ["models", drawnWhole(compared)], ["privacy", drawnWhole(privacy)],
  ["curves", curves], ["sites", fairness], ["rounds", roundsGrid], ["times", times], ["differences", differences], ["results", drawnWhole(results)], ["history", drawnWhole(history)], ["activity", activity]];

// Draws a story, and draws it anew when it has become another one: ``renew(story)``.
function mount(story, root, prepare = () => {}) {
  let model = buildModel(story);
  const view = readView(model);
  prepare(view);
  applyTheme(view);
  dark.addEventListener("change", () => applyTheme(view));
  const shown = new Map(), places = new Map();
  for (const [id, make] of PARTS) { const part = make(model, view); shown.set(id, part); places.set(id, part.node || document.createComment(id)); }
  const at = (id) => places.get(id), pair = (...nodes) => h("div", { class: "pair" }, nodes);
  // few rounds leave room beside them
  const narrow = Math.max(story.rounds.length, story.total_rounds || 0) <= 8;
  const middle = narrow ? [pair(h("div", { class: "stack" }, at("rounds"), at("results")), h("div", { class: "stack" }, at("times"), at("differences"), at("history")))] : [at("rounds"), pair(at("times"), at("differences")), pair(at("results"), at("history"))];
  const main = h("main", { id: "main", class: "wrap", tabindex: "-1" }, ["top", "failures", "losses", "pictures", "models", "privacy", "curves", "sites"].map(at), middle, at("activity"));
  const head = bar(story, view), foot = h("footer", { class: "wrap" });
  root.replaceChildren(head.node, main, foot, ...regions());
  const told = () => {
    main.classList.toggle("big", model.sites.length > 20 || model.plots.length > 12);
    const silent = (awaited(model, view.now()) || { silent: [] }).silent, tone = silent.length && model.story.headline.tone === "active" ? "warn" : model.story.headline.tone;
    const title = tabTitle(model.story, silent, (slot) => (model.bySlot.get(slot) || { name: slot }).name);
    if (document.title !== title) { document.title = title; showIcon(tone); }
    head.renew(model, PARTS.map(([id]) => places.get(id)).filter((x) => x instanceof Element && x.querySelector("h2")), tone);
    const drawn = `Drawn from what the hub knew on ${day(model.story.generated_at)}, ${clock(model.story.generated_at)} UTC. All times are UTC.`;
    if (!view.live) foot.textContent = drawn;
  };
  const renewPart = (id) => {
    const next = shown.get(id).renew(model);
    if (!next) return;
    const node = next.node || document.createComment(id);
    swap(places.get(id), node);
    places.set(id, node);
    shown.set(id, next);
    if (id === "curves") view.redraw();
  };
  // what was fetched of curves changes them, and what is counted from them when there is time
  const renew = (next, fetched = false) => {
    model = buildModel(next, model);
    view.model = model;
    const big = model.story.rounds.length * model.sites.length > 5000;
    for (const [id] of PARTS) {
      if (fetched ? id === "curves" : !big || id === "top") renewPart(id);
      else if (!fetched || id === "top" || id === "sites") soon(id, () => renewPart(id));
    }
    told();
  };
  told();
  view.redraw();
  // the newest round is the one that is looked for
  for (const wide of main.querySelectorAll("#rounds .scroll")) wide.scrollLeft = view.live ? wide.scrollWidth : 0;
  let waiting = 0, printing = false, wide = 0;
  // a page that only grows longer has its charts as wide as before
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === wide) return;
    wide = contentRect.width;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { if (!printing) view.resize(); });
  }).observe(main);
  // paper is narrower than the window: drawn anew at its width, so that the letters keep their size
  window.addEventListener("beforeprint", () => { printing = true; for (const d of document.querySelectorAll("details:not([open])")) { d.open = true; d.dataset.folded = ""; } view.fit(model.plots.length > 1 ? 340 : 700); view.brief(true); });
  window.addEventListener("afterprint", () => { printing = false; for (const d of document.querySelectorAll("details[data-folded]")) { d.open = false; delete d.dataset.folded; } view.redraw(); view.brief(false); });
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  return { view, renew, tick() { renewPart("top"); told(); }, model: () => model };
}
