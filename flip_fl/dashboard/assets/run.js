// The page of one run: the story once, then only what is new.
const REDRAW_MS = 500, SAY_MS = 10000, TICK_MS = 1000, MOST_COMPLETE = 12;

const places = (cursor) => cursor.split(".").map(Number);
const atLeast = (a, b) => { const other = places(b); return places(a).every((n, k) => n >= other[k]); };

// The story with a delta added: what did not change stays the same object.
function addDelta(story, d) {
  const next = { ...story, generated_at: d.at, cursor: d.cursor, status: d.status, headline: d.headline, reason: d.reason, total_rounds: d.total_rounds ?? story.total_rounds, skews: JSON.stringify(d.skews) === JSON.stringify(story.skews) ? story.skews : d.skews, unreachable: d.unreachable, queue_position: d.queue_position };
  if (d.status !== "INITIATED") next.awaited = null;
  for (const name of ["history", "failures", "losses", "results"]) if (d[name]) next[name] = d[name];
  if (d.rounds.length) {
    const rounds = new Map(story.rounds.map((r) => [r.number, r]));
    for (const r of d.rounds) rounds.set(r.number, r);
    next.rounds = [...rounds.values()].sort((a, b) => a.number - b.number);
  }
  if (d.feed.length) {
    const known = new Set(story.feed.slice(-500).map((x) => x.id));
    next.feed = [...story.feed, ...d.feed.filter((x) => !known.has(x.id))];
  }
  if (Object.keys(d.seen).length) next.sites = story.sites.map((x) => (d.seen[x.slot] && !(ms(x.last_seen) > ms(d.seen[x.slot])) ? { ...x, last_seen: d.seen[x.slot] } : x));
  if (d.points.length) next.plots = addPoints(story.plots, d.points);
  return next;
}

function addPoints(plots, news) {
  const next = [...plots], changed = new Map();
  for (const one of news) {
    const key = `${one.label}\n${one.x_label}`;
    if (!changed.has(key)) {
      const at = next.findIndex((p) => p.label === one.label && p.x_label === one.x_label);
      const plot = at < 0 ? { label: one.label, x_label: one.x_label, series: [] } : { ...next[at], series: [...next[at].series] };
      changed.set(key, plot);
      if (at < 0) next.push(plot); else next[at] = plot;
    }
    const plot = changed.get(key), listed = plot.series.length > 0 && plot.series.every((s) => !s.points.length && s.total > 0);
    let at = plot.series.findIndex((s) => s.slot === one.slot && s.name === one.name);
    if (at < 0) at = plot.series.findIndex((s) => s.slot === one.slot);
    const old = at < 0 ? { slot: one.slot, name: one.name, points: [], earlier: [] } : plot.series[at], series = { ...old };
    if (at < 0) plot.series.push(series); else plot.series[at] = series;
    if (old.total !== null && old.total !== undefined) series.total = old.total + one.points.length;
    // a plot that was not fetched yet is fetched whole when it comes into view
    if (listed) continue;
    let points = [...old.points], earlier = old.earlier || [];
    if (one.again) {
      const places = new Set(one.points.map(([x, , round]) => `${x} ${round}`)), stays = (p) => p.again || !places.has(`${p.x} ${p.round}`);
      earlier = [...earlier, ...points.filter((p) => !stays(p))].sort((a, b) => a.x - b.x);
      points = points.filter(stays);
    }
    for (const [x, y, round] of one.points) points.push(one.again ? { x, y, round, again: true } : { x, y, round });
    const n = points.length, from = n - one.points.length;
    for (let k = Math.max(1, from); k < n; k += 1) if (points[k].x < points[k - 1].x) { points.sort((a, b) => a.x - b.x); break; }
    Object.assign(series, { points, earlier });
  }
  return next;
}

async function runPage(root) {
  const id = BODY().model, base = api(`model/${id}`);
  let story = null, mounted = null, offset_ms = 0, dirty = false, drawn = 0, paused = false, away = null, source = null, said = 0, spoken = "", timer = 0, waiting = [];
  const state = h("span", { class: "link", role: "status" }), banner = h("p", { class: "banner", role: "status", hidden: true });
  const pause = button("Pause", { class: "wide pause", "aria-pressed": "false", title: "keep what is shown; nothing is lost meanwhile" }, () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    show();
    if (!paused && dirty) draw();
  });
  const bell = "Notification" in window && window.isSecureContext ? button("Tell me", { class: "wide", "aria-pressed": "false", title: "a notice of the browser when the run ends" }, async () => {
    const on = bell.getAttribute("aria-pressed") !== "true" && (await Notification.requestPermission()) === "granted";
    bell.setAttribute("aria-pressed", String(on));
  }) : null;
  const now = () => Date.now() + offset_ms;
  const setClock = (iso) => { offset_ms = ms(iso) - Date.now(); };

  // two at a time, in the order in which they came into view; what is seen first is there first
  const fetching = new Map(), wanted = new Map(), wholes = new Map(), shown = new Map(), complete = new Set();
  let under_way = 0, fetched = false;
  function fetchPlot(plot, view, points = pointsOf(plot)) {
    const key = `${plot.label}\n${plot.xLabel}`;
    // smoothing needs every point; a part is asked for by its places, as far as they are known
    const range = view.smooth ? null : rangeOf({ ...plot, series: (wholes.get(key) || plot.source).series }, view);
    const bounds = ["from", "to"].map((name, k) => (range && Number.isFinite(range[k]) ? `&${name}=${range[k]}` : "")).join("");
    const path = plotPath(plot.label, plot.xLabel, view.smooth ? 100000 : points) + bounds;
    // more cannot be had than what is shown
    if (points > pointsOf(plot) && shown.get(key) === path) return false;
    wanted.set(key, path);
    if (!fetching.has(path)) fetching.set(path, { path, key, points, whole: !bounds && !view.smooth, begun: false, label: plot.label, xLabel: plot.xLabel });
    nextPlot();
    return true;
  }
  const plotPath = (label, xLabel, points) => `model/${id}/plot?label=${encodeURIComponent(label)}&x_label=${encodeURIComponent(xLabel)}&points=${points}`;
  // a picture of a hundred long lines is there sooner with these few; when it rests in view, the others follow
  const pointsOf = (plot) => (plot.series.length > 20 && plot.series.reduce((sum, s) => sum + (s.total ?? s.points.length), 0) > 20000 ? 300 : MOST_POINTS);
  const completePlot = (plot, view) => fetchPlot(plot, view, MOST_POINTS);
  // of those that were completed and are out of view the oldest goes back to few points
  function remember(job, view) {
    complete.delete(job.key);
    if (job.points < MOST_POINTS) return;
    const plots = new Map(mounted.model().plots.map((p) => [`${p.label}\n${p.xLabel}`, p])), plot = plots.get(job.key);
    if (!plot || pointsOf(plot) === MOST_POINTS) return;
    complete.add(job.key);
    const away = complete.size > MOST_COMPLETE && [...complete].find((key) => !inView(document.getElementById(`plot-${plots.get(key).index}`)));
    if (!away) return;
    complete.delete(away);
    fetchPlot(plots.get(away), view);
  }
  // the first plot is on its way while the rest of the page is made; one that is not asked for then costs no more than that
  const early = new Map();
  function foresee(plot) {
    if (!plot || plot.series.some((s) => s.points.length)) return;
    const path = plotPath(plot.label, plot.x_label, pointsOf(plot)), coming = read(path);
    coming.catch(() => {});
    early.set(path, coming);
  }
  async function nextPlot() {
    const job = [...fetching.values()].find((x) => !x.begun);
    // the first one alone: what is seen is there sooner
    if (!job || under_way >= (fetched ? 2 : 1)) return;
    job.begun = true;
    under_way += 1;
    try {
      const coming = early.get(job.path);
      early.clear();
      const found = await (coming ?? read(job.path));
      fetched = true;
      if (job.whole) wholes.set(job.key, found);
      // what was asked for meanwhile is another part
      if (wanted.get(job.key) === job.path) {
        story = { ...story, plots: story.plots.map((p) => (p.label === job.label && p.x_label === job.xLabel ? found : p)) };
        shown.set(job.key, job.path);
        mounted.renew(story, true);
        remember(job, mounted.view);
        const drawn = mounted.model().plots.find((p) => p.source === found), { view } = mounted;
        // of rounds beside local steps the places are known only now
        if (job.whole && drawn?.thinned && rangeOf(drawn, view)) fetchPlot(drawn, view);
      }
    } catch (error) { if (error.status) console.error(error.message); }
    fetching.delete(job.path);
    under_way -= 1;
    nextPlot();
    nextPlot();
  }
  function prepare(view) {
    Object.assign(view, { live: true, now, home: page(""), tools: [state, pause, bell, who("wide")], load: fetchPlot, complete: completePlot });
    view.csv = (plot) => { const link = h("a", { href: `${base}/metrics.csv?label=${encodeURIComponent(plot.label)}&x_label=${encodeURIComponent(plot.xLabel)}`, download: fileName(plot, "csv") }); document.body.append(link); link.click(); link.remove(); };
    view.older = async () => {
      const oldest = story.feed.reduce((a, x) => Math.min(a, x.id), Infinity), found = await read(`model/${id}/feed?before=${oldest}&count=2000`);
      story = { ...story, feed: [...found.rows, ...story.feed], feed_more: found.more };
      draw();
    };
  }
  function draw() {
    dirty = false;
    drawn = performance.now();
    mounted.renew(story);
    performance.mark("drawn");
    show();
    speak();
  }
  // at most two redraws a second, the first at once
  function changed() {
    dirty = true;
    if (paused || timer) return;
    const wait = Math.max(0, REDRAW_MS - (performance.now() - drawn));
    timer = setTimeout(() => { timer = 0; if (dirty && !paused) draw(); }, wait);
  }
  function speak() {
    const text = story.headline.text, over = TERMINAL.has(story.status);
    if (text === spoken || (!over && Date.now() - said < SAY_MS)) return;
    if (spoken) announce(text, over && story.headline.tone === "bad");
    if (spoken && over && bell?.getAttribute("aria-pressed") === "true") new Notification(story.model.name, { body: text });
    spoken = text;
    said = Date.now();
  }
  function show() {
    const over = TERMINAL.has(story.status);
    const [word, tone, title] = paused ? ["Paused", "quiet", "what came since is shown when you go on"] : away ? ["Not connected", "warn", ""] : source?.state === "polling" || waiting.polling ? ["Asking", "active", "no stream comes through: the hub is asked every two seconds"] : over ? ["Over", "quiet", "the run is over; what is still told of it appears here"] : ["Live", "good", "what happens appears here by itself"];
    state.className = `link ${tone}`;
    if (state.textContent !== word) state.textContent = word;
    state.title = title;
    banner.hidden = !away;
    if (away && banner.dataset.at !== String(away)) {
      banner.dataset.at = String(away);
      banner.textContent = `Not connected since ${clock(new Date(away).toISOString())} UTC, showing data up to ${clock(story.generated_at)} UTC. Nothing is lost: the rest comes when the hub is back.`;
    }
  }
  function arrive(delta) {
    if (delta.since === story.cursor) {
      setClock(delta.at);
      const failed = story.failures.length;
      story = addDelta(story, delta);
      if (story.failures.length > failed) announce(`Failure: ${story.failures.at(-1).headline}`, true);
      const quiet = !delta.rounds.length && !delta.feed.length && !delta.points.length && !delta.history;
      if (!quiet || delta.headline.text !== mounted.model().story.headline.text) changed(); else mounted.model().story.generated_at = delta.at;
      return true;
    }
    return atLeast(story.cursor, delta.cursor);
  }
  async function catchUp() {
    const found = await read(`model/${id}/changes?since=${story.cursor}`).catch(() => null);
    if (found && found.again) reload();
    else if (found) arrive(found);
  }
  function hear(message) {
    if (message.type === "delta") { if (!arrive(message.delta)) catchUp(); }
    else if (message.type === "at") { if (message.cursor !== story.cursor) catchUp(); }
    else if (message.type === "again") reload();
    else if (message.type === "gone") fail(new Refusal(400, "deleted"));
    else if (message.type === "refused") fail(new Refusal(message.status, ""));
    else if (message.type === "state") {
      if (message.state === "refused") { fail(new Refusal(message.detail, "")); return; }
      waiting.polling = message.state === "polling";
      away = message.state === "away" ? away ?? now() : null;
      show();
    }
  }
  function fail(error) {
    follow.stop?.();
    root.replaceChildren(frame("", plainView()), h("main", { id: "main", class: "wrap", tabindex: "-1" }, trouble(error)), ...regions());
    document.title = `${document.getElementById("trouble-h").textContent} – FLIP hub`;
    document.documentElement.dataset.ready = "refused";
  }
  // one stream for all tabs where the browser can share it
  function follow() {
    follow.stop?.();
    if (window.SharedWorker) {
      try {
        const port = new SharedWorker(page(`assets/${BODY().worker}`), "flip-hub").port;
        port.onmessage = ({ data }) => hear(data);
        port.postMessage({ api: api(""), run: id, cursor: story.cursor });
        follow.stop = () => { port.postMessage({ leave: true }); port.close(); };
        return;
      } catch { /* no workers here: this tab has a stream of its own */ }
    }
    source = new Source(api(""), (run, message) => hear(message));
    source.add(id, story.cursor);
    follow.stop = () => source.close();
  }
  async function reload() {
    const atOnce = BODY().story, path = atOnce.replace("&rows=few", ""), first = !mounted, found = await read(first ? atOnce : path);
    setClock(found.generated_at);
    // plots that were fetched already are in it only as names
    const known = new Map(story ? story.plots.map((p) => [`${p.label}\n${p.x_label}`, p]) : []);
    const merged = (next) => ({ ...next, plots: next.plots.map((p) => { const old = known.get(`${p.label}\n${p.x_label}`), count = (plot) => plot.series.reduce((sum, s) => sum + (s.total ?? s.points.length), 0); return old && count(old) === count(p) && p.series.every((s) => !s.points.length) ? old : p; }) });
    story = merged(found);
    if (first) {
      foresee(story.plots[0]);
      mounted = mount(story, root, prepare);
      root.querySelector(".bar").after(banner);
      spoken = story.headline.text;
      document.documentElement.dataset.ready = "true";
    } else draw();
    if (story.partial) {
      // a big run: what is in view first, then the rest of its story
      do await new Promise((done) => setTimeout(done, 50)); while (fetching.size);
      const whole = await read(path);
      for (const p of story.plots) known.set(`${p.label}\n${p.x_label}`, p);
      story = merged(whole);
      setClock(story.generated_at);
      draw();
    }
    follow();
    show();
  }
  for (let wait = 1000; ; wait = Math.min(8000, wait * 2)) {
    try { await reload(); break; } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      fail(error);
      if (error.status !== 0 && error.status !== 503) return;
      await new Promise((done) => setTimeout(done, wait));
    }
  }
  setInterval(() => { if (document.hidden && TERMINAL.has(story.status)) return; agelast(now()); if (!TERMINAL.has(story.status)) mounted.tick(); }, TICK_MS);
  window.addEventListener("pagehide", () => follow.stop?.());
  window.addEventListener("pageshow", (event) => { if (event.persisted) reload().catch(fail); });
}
