// What went wrong, what came out, and what happened when.
function failures(model) {
  const list = model.story.failures;
  if (!list.length) return null;
  return section("failures", "Failures", list.length > 1 ? `${list.length} different ones; equal failures of several sites are one entry.` : null, list.map((f, k) => failure(f, k, model)));
}

function failure(f, index, model) {
  const who = f.slots.map((slot) => (model.bySlot.has(slot) ? siteName(model.bySlot.get(slot)) : slot));
  const meta = [f.round ? `round ${f.round}` : null, f.task, time(f.at, `${clock(f.at)} UTC`)].filter(Boolean);
  const frames = userFrames(f.detail);
  const lines = f.detail.trimEnd().split("\n").length;
  return h("article", { class: "failure", id: `failure-${index}`, "aria-labelledby": `failure-${index}-h` },
    h("h3", { id: `failure-${index}-h` }, f.headline),
    h("p", { class: "meta" }, f.slots.length > 1 ? h("b", {}, `${f.slots.length === model.sites.length ? "All " : ""}${f.slots.length} sites `) : null, who, meta.map((m) => h("span", {}, m))),
    frames.length ? h("ol", { class: "frames", "aria-label": "Where, in the app's own code" }, frames.map((x) => h("li", {}, h("span", { class: "where" }, `${x.file}, line ${x.line}, in ${x.name}`), x.code ? h("code", {}, x.code) : null))) : null,
    f.detail.trim() ? h("details", {}, h("summary", {}, `Full text, ${plural(lines, "line")}`), h("pre", { tabindex: "0", role: "group", "aria-label": "Full text of the failure" }, f.detail), h("div", { class: "acts" }, copyButton(f.detail, "the full text"))) : null);
}

const LIBRARY = /(site-packages|dist-packages|\/lib\/python|\/flip_fl\/|<frozen|<string>)/;
function userFrames(detail) {
  const lines = detail.split("\n"), out = [];
  lines.forEach((text, k) => {
    const match = /^\s*File "(.+)", line (\d+), in (.+)$/.exec(text);
    if (!match || LIBRARY.test(match[1])) return;
    const next = lines[k + 1] || "";
    out.push({ file: match[1].split("/").slice(-2).join("/"), line: match[2], name: match[3], code: /^\s*File "/.test(next) ? "" : next.trim() });
  });
  return out.slice(-6);
}

function losses(model) {
  const list = model.story.losses;
  if (!list.length) return null;
  const rows = list.map((x) => h("li", {}, time(x.at), h("span", {}), h("span", { class: "soft" }, x.round ? `round ${x.round}` : ""), x.slot && model.bySlot.has(x.slot) ? siteName(model.bySlot.get(x.slot)) : h("span", {}), h("span", { class: "text" }, x.text)));
  return section("losses", "Lost reports", "What was reported and never reached the hub, as whoever counted it says.", h("ol", { class: "feed", tabindex: "0", role: "list", "aria-label": "Lost reports" }, rows));
}

function results(model) {
  const { story } = model, r = story.results;
  const command = (text) => h("div", { class: "command copyline" }, h("code", {}, text), copyButton(text, "the command"));
  if (r) {
    return section("results", "Results", null,
      h("dl", { class: "pairs" },
        h("dt", {}, "Name"), h("dd", {}, r.address.split(/[/\\]/).filter(Boolean).at(-1) || r.address),
        h("dt", {}, "Address"), h("dd", { class: "copyline" }, h("code", {}, r.address), copyButton(r.address, "the address")),
        h("dt", {}, "Size"), h("dd", {}, bytes(r.size_bytes)),
        h("dt", {}, "SHA-256"), h("dd", {}, r.sha256 ? h("code", {}, r.sha256) : "not recorded"),
        h("dt", {}, "Stored"), h("dd", {}, time(r.at, `${day(r.at)}, ${clock(r.at)} UTC`))),
      command(`flip-fl results get ${story.model.id}`));
  }
  const why = { RESULTS_UPLOADED: "Stored, as the FL server says; it has not said where.", RESULTS_UPLOAD_FAILED: `Not uploaded: ${story.reason || "the upload failed"}.`, ERROR: "None: the run failed before results were stored.", STOPPED: "None: the run was stopped before results were stored." }[story.status];
  return section("results", "Results", null, h("p", { class: "empty" }, why || "Not yet: results are stored after the last round."));
}

function history(model) {
  const list = model.story.history;
  if (!list.length) return null;
  const applied = list.filter((t) => t.applied);
  const word = (status) => (status === "RUNNING" && evaluates(model.story) ? "Evaluating" : WORDS.states[status].word);
  const rows = list.map((t) => {
    const next = applied[applied.indexOf(t) + 1];
    const until = next ? ms(next.at) : TERMINAL.has(t.status) ? NaN : ms(model.story.generated_at);
    const state = WORDS.states[t.status];
    return h("tr", { class: t.applied ? null : "ignored" }, h("td", {}, time(t.at)),
      h("td", { class: "nowrap" }, t.previous && t.previous !== t.status ? h("span", { class: "soft small" }, `${word(t.previous)} → `) : null, h("span", { class: `tag word ${state.tone}` }, word(t.status))),
      h("td", { class: "who" }, t.by),
      h("td", { class: "num" }, t.applied && t.status !== "PENDING" ? duration((until - ms(t.at)) / 1000).replace("–", "") : ""),
      h("td", { class: "why" }, [t.reason, t.applied ? null : `ignored: the run was ${WORDS.states[t.previous || model.story.status].word.toLowerCase()}`].filter(Boolean).join(" · ")));
  });
  return section("history", "Status history", null, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Status history" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Time (UTC)", "State", "By"].map((x) => h("th", { scope: "col" }, x)), h("th", { scope: "col", class: "num" }, "For"), h("th", { scope: "col" }, "Remark"))), h("tbody", {}, rows))));
}

const kindWord = (kind) => (Object.hasOwn(WORDS.kinds, kind) ? WORDS.kinds[kind] : kind);

// A traceback stands once, among the failures; its line here says what happened and leads there.
function brief(row, model) {
  const lines = row.text.split("\n").filter((t) => t.trim());
  const at = lines.length < 3 ? -1 : model.story.failures.findIndex((f) => f.detail.trim() === row.text.trim());
  return at < 0 ? row.text : [model.story.failures[at].headline, " ", h("a", { href: `#failure-${at}` }, `${lines.length} lines`)];
}

const STEP = 200;
function activity(first, view) {
  let model = first, limit = STEP, all = [], drawn = null, fetching = false;
  const sorted = () => [...model.story.feed].sort((a, b) => ms(b.at) - ms(a.at) || b.id - a.id);
  all = sorted();
  if (!all.length) return { node: section("activity", "Activity", null, h("p", { class: "empty" }, first.story.partial ? "Being fetched …" : "Nothing has happened yet. Each status, round, result and message becomes a line here.")), renew: (next) => (next.story.feed.length ? activity(next, view) : null) };
  const list = h("ol", { class: "feed", tabindex: "0", role: "list", "aria-label": "Activity, newest first" });
  const count = h("span", {});
  const more = button("Show more", { class: "screen" }, async () => {
    limit += STEP * 5;
    if (limit >= all.length && model.story.feed_more && view.older && !fetching) { fetching = true; await view.older(); fetching = false; }
    draw();
  });
  const nameOf = (slot) => (model.bySlot.has(slot) ? model.bySlot.get(slot).name : slot);
  const again = () => { limit = STEP; draw(); };
  const choose = (label) => h("select", { "aria-label": label, onchange: again }, h("option", { value: "" }, label));
  const site = choose("Every site"), kind = choose("Every kind");
  const options = (node, pairs) => {
    const known = new Set([...node.options].map((o) => o.value));
    for (const [value, text] of pairs) if (!known.has(value)) node.append(h("option", { value }, text));
    node.hidden = pairs.length < 2;
  };
  const bad = h("input", { type: "checkbox", onchange: again });
  const words = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the activity", oninput: again });
  const line = (x) => h("li", { id: `feed-${x.id}`, class: [x.success ? "" : "no", x.kind === "round" ? "turn" : ""].join(" ").trim() || null },
    h("a", { href: `#feed-${x.id}` }, time(x.at)), h("span", { class: "soft" }, Number.isFinite(model.start) ? offset((ms(x.at) - model.start) / 1000) : ""),
    h("span", { class: "soft" }, kindWord(x.kind)), x.slot && model.bySlot.has(x.slot) ? siteName(model.bySlot.get(x.slot)) : h("span", {}),
    h("span", { class: "text" }, x.success ? null : h("span", { class: "sr" }, "Failure: "), brief(x, model)));
  function wanted() {
    const text = words.value.trim().toLowerCase();
    return all.filter((x) => (!site.value || x.slot === site.value) && (!kind.value || x.kind === kind.value) && (!bad.checked || !x.success) && (!text || x.text.toLowerCase().includes(text)));
  }
  function draw() {
    const rows = wanted(), ids = new Map([...list.children].map((node) => [node.id, node])), keep = drawn === model.bySlot;
    drawn = model.bySlot;
    const next = rows.slice(0, limit).map((x) => (keep && ids.get(`feed-${x.id}`)) || line(x));
    // new lines are put above what is there: nothing that is read moves
    const before = list.scrollTop, high = list.scrollHeight;
    const kept = new Set(next);
    for (const node of [...list.children]) if (!kept.has(node)) node.remove();
    next.forEach((node, k) => { if (list.children[k] !== node) list.insertBefore(node, list.children[k] || null); });
    if (before > 0) list.scrollTop = before + (list.scrollHeight - high);
    if (!rows.length) list.append(h("li", {}, h("span", { class: "text" }, "No line matches.")));
    const shown = Math.min(limit, rows.length), further = model.story.feed_more ? ", older ones at the hub" : "";
    count.textContent = shown < rows.length ? `newest ${shown} of ${rows.length} lines${further}` : plural(rows.length, "line") + further;
    more.hidden = shown >= rows.length && !model.story.feed_more;
  }
  // paper cannot be unfolded: it gets the newest lines and says how many there are
  view.brief = (paper) => { limit = paper ? Math.min(limit, 60) : Math.max(limit, STEP); draw(); };
  const node = section("activity", "Activity", null, h("div", { class: "controls" }, site, kind, h("label", {}, bad, "Failures only"), words), list, h("div", { class: "acts" }, more));
  node.querySelector(".head").append(h("p", {}, count));
  function renew(next) {
    if (drawn && next.story.feed === model.story.feed && next.sites === model.sites && next.story.failures === model.story.failures) { model = next; return null; }
    const same = next.sites.map((x) => x.name).join("\n") === model.sites.map((x) => x.name).join("\n");
    if (same) drawn = drawn && next.bySlot;
    model = next;
    all = sorted();
    options(site, [...new Set(all.map((x) => x.slot).filter(Boolean))].sort(naturalOrder).map((x) => [x, nameOf(x)]));
    options(kind, [...new Set(all.map((x) => x.kind))].map((k) => [k, kindWord(k)]));
    draw();
    return null;
  }
  renew(first);
  return { node, renew };
}
