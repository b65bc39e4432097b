// The grid round x site, and who is slow.
const CELLS = 1500;

function roundsGrid(first, view) {
  let model = first, until = null, grid = null, cells = [], rounds = [], sites = [], shape = "", newest = 0, most = 100, seenAt = null;
  if (model.story.partial) return { node: section("rounds", "Rounds", null, h("p", { class: "empty" }, "Being fetched …")), renew: (next) => (next.story.partial ? null : roundsGrid(next, view)) };
  if (!model.story.rounds.length) {
    const over = TERMINAL.has(model.story.status);
    return {
      node: section("rounds", "Rounds", null, h("p", { class: "empty" }, over ? "The run ended before its first round." : "No round has begun. Rounds appear here as soon as the sites are asked to train.")),
      renew: (next) => (next.story.rounds.length || TERMINAL.has(next.story.status) !== over ? roundsGrid(next, view) : null),
    };
  }
  const picked = h("p", { class: "picked soft screen", role: "status" }, "Choose a cell to see when it came, its size and its error.");
  const holder = h("div", { class: "scroll" }), key = h("ul", { class: "key", "aria-label": "What the cells mean" });
  const earlier = button("Earlier rounds", { class: "screen" }, () => turn(-1)), later = button("Later rounds", { class: "screen" }, () => turn(1));
  const where = h("span", { class: "soft small" }), pager = h("div", { class: "acts" }, earlier, later, where);
  const word = (state) => (state === "awaited" ? "Awaited" : WORDS.cells[state].word);
  const open = () => !TERMINAL.has(model.story.status);
  const stateOf = (round, cell) => (open() && round.number === newest && !round.aggregated_at && (cell.state === "missed" || cell.state === "not_asked") ? "awaited" : cell.state);
  const cellOf = (round, slot) => cellAt(round, slot) || { state: "not_asked", slot };
  const node = section("rounds", "Rounds", " ", holder, pager, key, picked);
  const sentence = node.querySelector(".head p");

  function turn(way) {
    const all = model.story.rounds.length, end = until ?? all;
    until = Math.max(Math.min(most, all), Math.min(all, end + way * most));
    if (until === all) until = null;
    shape = "";
    renew(model);
    announce(where.textContent);
  }
  function pick(i, j) {
    grid.querySelector("[aria-current]")?.removeAttribute("aria-current");
    cells[i][j].setAttribute("aria-current", "true");
    tell(sites[i], rounds[j]);
  }
  function tell(site, round) {
    const cell = cellOf(round, site.slot), state = stateOf(round, cell);
    const failure = model.story.failures.findIndex((f) => f.round === round.number && f.slots.includes(site.slot));
    const facts = [cell.at ? ["at ", time(cell.at)] : null, Number.isFinite(cell.seconds) && cell.seconds !== null ? `after ${duration(cell.seconds)}` : null, cell.size_bytes ? bytes(cell.size_bytes) : null].filter(Boolean);
    picked.replaceChildren(siteName(site), ` · round ${inStage(round)} · `, h("b", {}, word(state)), ...facts.flatMap((f) => [" · ", ...[f].flat()]));
    if (failure >= 0 && state === "failed") append(picked, [" · ", h("a", { href: `#failure-${failure}` }, model.story.failures[failure].headline)]);
    picked.classList.remove("soft");
  }
  function go(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] }[event.key];
    const i = cells.findIndex((row) => row.includes(event.target)), chosen = event.key === "Enter" || event.key === " ";
    if (i < 0 || (!step && !chosen)) return;
    event.preventDefault();
    const j = cells[i].indexOf(event.target);
    if (chosen) { pick(i, j); return; }
    const to = cells[Math.max(0, Math.min(cells.length - 1, i + step[0]))][Math.max(0, Math.min(rounds.length - 1, j + step[1]))];
    event.target.tabIndex = -1; to.tabIndex = 0; to.focus();
  }

  function renew(next) {
    const before = model;
    model = next;
    if (grid && shape && before.story.rounds === next.story.rounds && before.story.sites === next.story.sites && before.story.skews === next.story.skews && before.sites === next.sites && before.story.status === next.story.status) return null;
    const all = [...model.story.rounds].sort((a, b) => a.number - b.number);
    const end = until ?? all.length;
    sites = model.sites.filter((x) => askedIn(model.story.rounds).has(x.slot));
    most = Math.max(10, Math.min(100, Math.floor(CELLS / sites.length)));
    rounds = all.slice(Math.max(0, end - most), end);
    newest = all.length ? all.at(-1).number : 0;
    const stats = siteTimes(all, sites), times = sites.some((x) => Number.isFinite(stats.get(x.slot).seconds));
    const states = sites.map((x) => rounds.map((r) => stateOf(r, cellOf(r, x.slot))));
    seenAt = open() ? new Map(model.story.sites.map((x) => [x.slot, x.last_seen])) : null;
    const now = JSON.stringify([Boolean(seenAt), sites.map((x) => [x.slot, x.name, skewShort(model, x.slot)]), rounds.map((r) => [r.number, r.stage]), times]);
    if (now === shape) patch(states, stats, times); else { shape = now; build(states, stats, times); }
    const seen = new Set(states.flat());
    const keys = Object.keys(WORDS.cells).concat("awaited").filter((k) => seen.has(k));
    if (key.dataset.of !== keys.join()) { key.dataset.of = keys.join(); key.replaceChildren(...keys.map((k) => h("li", {}, h("span", { class: `cell ${k}` }), k === "awaited" ? "awaited" : WORDS.cells[k].text))); }
    rowsHigh(node, sites.length);
    pager.hidden = all.length <= most;
    earlier.disabled = end <= most; later.disabled = end >= all.length;
    where.textContent = rounds.length ? `rounds ${rounds[0].number} to ${rounds.at(-1).number} of ${all.length}` : "";
    const text = roundsSentence(model, all, sites, stats, open());
    if (sentence.textContent !== text) sentence.textContent = text;
    return null;
  }
  const seen = (x) => (seenAt.get(x.slot) ? ago(seenAt.get(x.slot), view.now()) : "not yet");
  const skewNote = (x) => { const text = skewShort(model, x.slot); return text ? h("span", { class: "skew" }, text) : null; };
  const label = (x, r, state) => `${x.name}, round ${inStage(r)}: ${word(state)}`;
  const foot = (r) => (r.expected === null || r.expected === undefined ? "" : `${r.returned ?? 0}/${r.expected}`);
  function patch(states, stats, times) {
    const rows = grid.tBodies[0].rows;
    states.forEach((row, i) => {
      row.forEach((state, j) => {
        const b = cells[i][j], name = clean(label(sites[i], rounds[j], state));
        if (b.getAttribute("aria-label") === name) return;
        b.className = `cell ${state}`;
        b.setAttribute("aria-label", name);
        if (b.getAttribute("aria-current")) tell(sites[i], rounds[j]);
      });
      const stat = stats.get(sites[i].slot);
      rows[i].cells[1].textContent = `${stat.in} of ${stat.asked}`;
      if (times) rows[i].cells[2].textContent = duration(stat.seconds);
      if (seenAt) rows[i].cells[times ? 3 : 2].replaceChildren(seen(sites[i]));
    });
    rounds.forEach((r, j) => { const cell = grid.tFoot?.rows[0].cells[j + 2 + (times ? 1 : 0) + (seenAt ? 1 : 0)]; if (cell && cell.textContent !== foot(r)) cell.textContent = foot(r); });
  }
  function build(states, stats, times) {
    const size = rounds.length > 60 ? "tiny" : rounds.length > 30 ? "mid" : "";
    const every = size === "tiny" ? 10 : size === "mid" ? 5 : 1;
    cells = sites.map((x, i) => rounds.map((r, j) => h("td", { class: `cell ${states[i][j]}`, tabindex: "-1", "aria-label": label(x, r, states[i][j]) })));
    if (cells.length && rounds.length) cells[0][0].tabIndex = 0;
    const stages = rounds.reduce((all, r) => { if (all.length && all.at(-1).stage === r.stage) all.at(-1).rounds += 1; else all.push({ stage: r.stage, rounds: 1 }); return all; }, []);
    const stat = () => h("td", { class: "stat" }), second = () => [times ? stat() : null, seenAt ? h("td", { class: "stat seen" }) : null];
    const fresh = h("table", { role: "grid", "aria-label": "Rounds of the sites", class: `rounds ${size}`, onkeydown: go, onclick: (e) => { const i = cells.findIndex((row) => row.includes(e.target)); if (i >= 0) pick(i, cells[i].indexOf(e.target)); } },
      h("thead", {}, stages.some((x) => x.stage) ? h("tr", { class: "stages" }, h("td", { class: "corner" }), stat(), second(),
        stages.map((x) => h("th", { scope: "colgroup", colspan: x.rounds }, x.stage || ""))) : null, h("tr", {}, h("th", { class: "corner", scope: "col" }, "Site"), h("th", { class: "stat", scope: "col" }, "Returned"), times ? h("th", { class: "stat", scope: "col" }, "Median time") : null, seenAt ? h("th", { class: "stat seen", scope: "col" }, "Last seen") : null,
        rounds.map((r, k) => h("th", { scope: "col", class: "n" }, every === 1 || r.number % every === 0 || k === 0 ? String(r.number) : h("span", { class: "sr" }, String(r.number)))))),
      h("tbody", {}, sites.map((x, i) => h("tr", {}, h("th", { scope: "row" }, siteName(x), x.name === x.slot ? null : h("span", { class: "slot" }, x.slot), skewNote(x)), h("td", { class: "stat" }, `${stats.get(x.slot).in} of ${stats.get(x.slot).asked}`),
        times ? h("td", { class: "stat" }, duration(stats.get(x.slot).seconds)) : null, seenAt ? h("td", { class: "stat seen" }, seen(x)) : null, cells[i]))),
      every === 1 ? h("tfoot", {}, h("tr", {}, h("td", { class: "corner" }), stat(), second(),
        rounds.map((r) => h("td", { title: `${r.returned ?? "?"} of ${r.expected ?? "?"} sites in round ${r.number}` }, foot(r))))) : null);
    const rolled = holder.scrollLeft, atEnd = holder.scrollLeft + holder.clientWidth >= holder.scrollWidth - 30;
    if (grid) swap(grid, fresh); else holder.append(fresh);
    grid = fresh;
    // the newest round stays in view for whoever has it in view
    holder.scrollLeft = atEnd ? holder.scrollWidth : rolled;
  }
  renew(first);
  return { node, renew };
}

const inStage = (round) => (round.stage ? `${round.number} (${round.stage})` : String(round.number));

function siteTimes(rounds, sites) {
  const out = new Map(sites.map((x) => [x.slot, { asked: 0, in: 0, all: [] }]));
  for (const r of rounds) {
    for (const c of r.cells) {
      const stat = out.get(c.slot);
      if (!stat) continue;
      if (c.state !== "not_asked") stat.asked += 1;
      if (c.state === "returned") stat.in += 1;
      if (c.state === "returned" || c.state === "late") stat.all.push(c.seconds ?? NaN);
    }
  }
  for (const stat of out.values()) stat.seconds = median(stat.all);
  return out;
}

function roundsSentence(model, rounds, sites, stats, open) {
  const closed = open ? rounds.filter((r) => r.aggregated_at) : rounds;
  const missing = sites.map((x) => ({ x, at: closed.filter((r) => ["missed", "failed"].includes(cellAt(r, x.slot)?.state)).map((r) => r.number) })).filter((m) => m.at.length);
  const out = [];
  if (!missing.length && closed.length) out.push(closed.length === 1 ? "Every site returned." : "Every site returned in every round.");
  else if (missing.length === sites.length && sites.length > 1 && missing[0].at.some((n) => missing.every((m) => m.at.includes(n)))) out.push(`No site returned in round ${ranges(missing[0].at.filter((n) => missing.every((m) => m.at.includes(n))))}.`);
  else if (missing.length) out.push(`Without ${listing(missing.map((m) => `${m.x.name} (round ${ranges(m.at)})`), 3)}.`);
  const again = rounds.filter((r) => (r.attempt || 1) > 1);
  if (again.length) out.push(`Started again: round ${ranges(again.map((r) => r.number))}.`);
  return out.join(" ");
}

// Where the time goes: a bar a site, in one round or as medians of all.
function times(first) {
  let model = first;
  const known = new WeakMap();
  const parts = (round) => known.get(round) || known.set(round, partsOf(round)).get(round);
  const partsOf = (round) => {
    const begun = ms(round.started_at), closed = ms(round.aggregated_at);
    return round.cells.filter((c) => c.seconds !== null && Number.isFinite(c.seconds) && c.at).map((c) => {
      const worked = Number.isFinite(c.worked) && c.worked !== null ? Math.min(c.worked, c.seconds) : c.seconds;
      const computed = Number.isFinite(c.computed) && c.computed !== null ? Math.min(c.computed, worked) : null;
      return { slot: c.slot, before: c.seconds - worked, worked, computed: computed ?? worked, sent: computed === null ? 0 : worked - computed, split: computed !== null, after: Number.isFinite(closed) ? Math.max(0, (closed - begun) / 1000 - c.seconds) : 0 };
    });
  };
  const measured = () => model.story.rounds.filter((r) => r.started_at && parts(r).length).sort((a, b) => a.number - b.number);
  if (model.sites.length < 2 || !measured().length) return { node: null, renew: (next) => { const part = times(next); return part.node ? part : null; } };
  const body = h("tbody", {}), said = h("p", {}), out = h("output", { class: "nowrap" }), key = h("ul", { class: "key", "aria-label": "What the bars mean" });
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Round whose times are shown; the first stop is the median of all", oninput: () => draw() });
  function draw(rounds = measured()) {
    const at = Number(slider.value), chosen = at ? [rounds[at - 1]] : rounds;
    out.textContent = at ? `round ${rounds[at - 1].number}` : rounds.length > 1 ? `median of ${rounds.length} rounds` : `round ${rounds[0].number}`;
    slider.setAttribute("aria-valuetext", out.textContent);
    const all = new Map(model.sites.map((x) => [x.slot, []]));
    for (const r of chosen) for (const q of parts(r)) all.get(q.slot)?.push(q);
    const rows = model.sites.map((site) => {
      const list = all.get(site.slot), of = (name) => median(list.map((q) => q[name]));
      return { site, before: of("before"), worked: of("worked"), computed: of("computed"), sent: of("sent"), after: of("after"), split: list.some((q) => q.split), count: list.length };
    }).filter((q) => q.count);
    const split = rows.some((q) => q.split), names = [["before", "not asked yet"], split ? ["worked", "computes"] : ["worked", "works and sends"], ...(split ? [["sent", "model on its way, there and back"]] : []), ["after", "waits for the others"]];
    key.replaceChildren(...names.map(([name, text]) => h("li", {}, h("span", { class: `patch ${name}` }), text)));
    const most = largest(rows.map((q) => q.before + q.worked + q.after)) || 1, mid = median(rows.map((q) => q.before + q.worked));
    const slow = rows.reduce((a, b) => (b.before + b.worked > a.before + a.worked ? b : a)), ratio = (slow.before + slow.worked) / mid;
    said.textContent = rows.length > 1 && ratio >= 1.2 ? `Slowest: ${clean(slow.site.name)}, ${duration(slow.before + slow.worked)} a round, ${ratio.toFixed(1)} times the median.` : rows.length > 1 ? "No site is much slower than the others." : "";
    rowsHigh(body.closest("section") || body, rows.length);
    body.replaceChildren(...rows.sort((a, b) => b.before + b.worked - a.before - a.worked).map((q) => {
      let x = 0;
      const bar = (name, value) => { const from = x; x += (value / most) * 100; return s("rect", { class: name, x: `${from.toFixed(2)}%`, y: 3, width: `${((value / most) * 100).toFixed(2)}%`, height: 12 }); };
      return h("tr", {}, h("th", { scope: "row" }, siteName(q.site)),
        h("td", { class: "barcol" }, s("svg", { class: "bars", role: "img", "aria-label": `${q.site.name}: asked after ${duration(q.before)}, ${q.split ? `computed ${duration(q.computed)}, model on its way ${duration(q.sent)}` : `worked and sent ${duration(q.worked)}`}, waited for the others ${duration(q.after)}` }, bar("before", q.before), bar("worked", q.computed), bar("sent", q.sent), bar("after", q.after))),
        h("td", { class: "num" }, duration(q.before + q.worked)), h("td", { class: "num" }, mid ? `${((q.before + q.worked) / mid).toFixed(1)} ×` : ""));
    }));
  }
  const node = section("times", "Time of the sites", null,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Time of the sites" }, h("table", { class: "sites" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Site"), h("th", { scope: "col", class: "barcol" }, "In a round"), h("th", { scope: "col", class: "num" }, "Until it returned"), h("th", { scope: "col", class: "num" }, "Median"))), body)),
    key);
  const controls = h("div", { class: "controls" }, slider, out);
  node.querySelector(".head").append(said, controls);
  const renew = (next, begin = false) => {
    if (selecting(node) || (!begin && next.story.rounds === model.story.rounds && next.sites === model.sites)) return null;
    model = next;
    const rounds = measured();
    slider.max = String(rounds.length > 1 ? rounds.length : 0);
    controls.hidden = rounds.length < 2;
    draw(rounds);
    return null;
  };
  renew(first, true);
  return { node, renew };
}
