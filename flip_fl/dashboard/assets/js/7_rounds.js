// The grid round x site, and who is slow.
function roundsGrid(model) {
  const rounds = [...model.story.rounds].sort((a, b) => a.number - b.number);
  if (!rounds.length) {
    const over = TERMINAL.has(model.story.status);
    return section("rounds", "Rounds", null, h("p", { class: "empty" }, over ? "The run ended before its first round." : "No round has begun. Rounds appear here as soon as the sites are asked to train."));
  }
  const open = !TERMINAL.has(model.story.status);
  const lookup = new Map(rounds.flatMap((r) => r.cells.map((c) => [`${r.number}\n${c.slot}`, c])));
  const sites = model.sites.filter((x) => rounds.some((r) => lookup.has(`${r.number}\n${x.slot}`)));
  const size = rounds.length > 60 ? "tiny" : rounds.length > 30 ? "mid" : "";
  const every = size === "tiny" ? 10 : size === "mid" ? 5 : 1;
  const picked = h("p", { class: "picked soft screen", role: "status" }, "Choose a cell to see when it came, its size and its error.");
  const stats = new Map(sites.map((x) => {
    const cells = rounds.map((r) => lookup.get(`${r.number}\n${x.slot}`)).filter(Boolean);
    return [x.slot, { asked: cells.filter((c) => c.state !== "not_asked").length, in: cells.filter((c) => c.state === "returned").length, seconds: median(cells.filter((c) => c.state === "returned" || c.state === "late").map((c) => c.seconds ?? NaN)) }];
  }));
  const stateOf = (round, cell) => (open && round === rounds.at(-1) && !round.aggregated_at && cell.state === "missed" ? "awaited" : cell.state);
  const word = (state) => (state === "awaited" ? "Awaited" : WORDS.cells[state].word);
  const buttons = sites.map((x) => rounds.map((r) => {
    const cell = lookup.get(`${r.number}\n${x.slot}`) || { state: "not_asked", slot: x.slot };
    const state = stateOf(r, cell);
    return h("button", { type: "button", class: `cell ${state}`, tabindex: "-1", "aria-label": `${x.name}, round ${inStage(r)}: ${word(state)}`, onclick: (e) => pick(e.currentTarget, x, r, cell, state) });
  }));
  function pick(node, site, round, cell, state) {
    grid.querySelector("[aria-current]")?.removeAttribute("aria-current");
    node.setAttribute("aria-current", "true");
    const failure = model.story.failures.findIndex((f) => f.round === round.number && f.slots.includes(site.slot));
    const facts = [cell.at ? ["at ", time(cell.at)] : null, cell.seconds !== null && cell.seconds !== undefined ? `after ${duration(cell.seconds)}` : null, cell.size_bytes ? bytes(cell.size_bytes) : null].filter(Boolean);
    picked.replaceChildren(siteName(site), ` · round ${inStage(round)} · `, h("b", {}, word(state)), ...facts.flatMap((f) => [" · ", ...[f].flat()]));
    if (failure >= 0 && state === "failed") append(picked, [" · ", h("a", { href: `#failure-${failure}` }, model.story.failures[failure].headline)]);
    picked.classList.remove("soft");
  }
  function go(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] }[event.key];
    const i = buttons.findIndex((row) => row.includes(event.target));
    if (!step || i < 0) return;
    event.preventDefault();
    const j = buttons[i].indexOf(event.target);
    const to = buttons[Math.max(0, Math.min(buttons.length - 1, i + step[0]))][Math.max(0, Math.min(rounds.length - 1, j + step[1]))];
    event.target.tabIndex = -1; to.tabIndex = 0; to.focus();
  }
  if (buttons.length) buttons[0][0].tabIndex = 0;
  const times = sites.some((x) => Number.isFinite(stats.get(x.slot).seconds));
  const stages = rounds.reduce((all, r) => { if (all.length && all.at(-1).stage === r.stage) all.at(-1).rounds += 1; else all.push({ stage: r.stage, rounds: 1 }); return all; }, []);
  const grid = h("table", { class: `rounds ${size}`, onkeydown: go },
    h("thead", {}, stages.some((x) => x.stage) ? h("tr", { class: "stages" }, h("td", { class: "corner" }), h("td", { class: "stat" }), times ? h("td", { class: "stat" }) : null,
      stages.map((x) => h("th", { scope: "colgroup", colspan: x.rounds }, x.stage || ""))) : null, h("tr", {}, h("th", { class: "corner", scope: "col" }, "Site"), h("th", { class: "stat", scope: "col" }, "Returned"), times ? h("th", { class: "stat", scope: "col" }, "Median time") : null,
      rounds.map((r, k) => h("th", { scope: "col", class: "n" }, every === 1 || r.number % every === 0 || k === 0 ? String(r.number) : h("span", { class: "sr" }, String(r.number)))))),
    h("tbody", {}, sites.map((x, i) => h("tr", {}, h("th", { scope: "row" }, siteName(x), x.name === x.slot ? null : h("span", { class: "slot" }, x.slot)), h("td", { class: "stat" }, `${stats.get(x.slot).in} of ${stats.get(x.slot).asked}`),
      times ? h("td", { class: "stat" }, duration(stats.get(x.slot).seconds)) : null, buttons[i].map((b) => h("td", {}, b))))),
    every === 1 ? h("tfoot", {}, h("tr", {}, h("td", { class: "corner" }), h("td", { class: "stat" }), times ? h("td", { class: "stat" }) : null,
      rounds.map((r) => h("td", { title: `${r.returned ?? "?"} of ${r.expected ?? "?"} sites in round ${r.number}` }, r.expected === null ? "" : `${r.returned ?? 0}/${r.expected}`)))) : null);
  const seen = new Set(buttons.flat().map((b) => b.classList[1]));
  const node = section("rounds", "Rounds", roundsSentence(model, rounds, sites, stats, open),
    h("div", { class: "scroll" }, grid),
    h("ul", { class: "key", "aria-label": "What the cells mean" }, Object.keys(WORDS.cells).concat("awaited").filter((k) => seen.has(k)).map((k) => h("li", {}, h("span", { class: `cell ${k}` }), k === "awaited" ? "awaited" : WORDS.cells[k].text))),
    picked);
  return node;
}

const inStage = (round) => (round.stage ? `${round.number} (${round.stage})` : String(round.number));

function roundsSentence(model, rounds, sites, stats, open) {
  const closed = open ? rounds.filter((r) => r.aggregated_at) : rounds;
  const missing = sites.map((x) => ({ x, at: closed.filter((r) => r.cells.some((c) => c.slot === x.slot && (c.state === "missed" || c.state === "failed"))).map((r) => r.number) })).filter((m) => m.at.length);
  const out = [];
  if (!missing.length && closed.length) out.push(closed.length === 1 ? "Every site returned." : "Every site returned in every round.");
  else if (missing.length === sites.length && sites.length > 1 && missing[0].at.some((n) => missing.every((m) => m.at.includes(n)))) out.push(`No site returned in round ${ranges(missing[0].at.filter((n) => missing.every((m) => m.at.includes(n))))}.`);
  else if (missing.length) out.push(`Without ${listing(missing.map((m) => `${m.x.name} (round ${ranges(m.at)})`), 3)}.`);
  const timed = sites.filter((x) => Number.isFinite(stats.get(x.slot).seconds));
  if (timed.length > 1) {
    const mid = median(timed.map((x) => stats.get(x.slot).seconds));
    const slow = timed.reduce((a, b) => (stats.get(b.slot).seconds > stats.get(a.slot).seconds ? b : a));
    const times = stats.get(slow.slot).seconds / mid;
    if (times >= 1.2) out.push(`Slowest: ${slow.name}, ${duration(stats.get(slow.slot).seconds)} a round, ${times.toFixed(1)} times the median.`);
  }
  return out.join(" ");
}
