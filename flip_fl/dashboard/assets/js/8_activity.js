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
        h("dt", {}, "Bundle"), h("dd", { class: "copyline" }, h("code", {}, r.address), copyButton(r.address, "the address")),
        h("dt", {}, "Size"), h("dd", {}, bytes(r.size_bytes)),
        h("dt", {}, "SHA-256"), h("dd", {}, r.sha256 ? h("code", {}, r.sha256) : "not recorded"),
        h("dt", {}, "Stored"), h("dd", {}, time(r.at, `${day(r.at)}, ${clock(r.at)} UTC`))),
      command(`flip-fl results get ${story.model.id}`));
  }
  const why = { RESULTS_UPLOAD_FAILED: `Not uploaded: ${story.reason || "the upload failed"}.`, ERROR: "None: the run failed before results were stored.", STOPPED: "None: the run was stopped before results were stored." }[story.status];
  return section("results", "Results", null, h("p", { class: "empty" }, why || "Not yet: results are stored after the last round."));
}

function history(model) {
  const list = model.story.history;
  if (!list.length) return null;
  const applied = list.filter((t) => t.applied);
  const rows = list.map((t) => {
    const next = applied[applied.indexOf(t) + 1];
    const until = next ? ms(next.at) : TERMINAL.has(t.status) ? NaN : ms(model.story.generated_at);
    const state = WORDS.states[t.status];
    return h("tr", { class: t.applied ? null : "ignored" }, h("td", {}, time(t.at)),
      h("td", {}, h("span", { class: `tag word ${state.tone}`, title: t.previous ? `after ${WORDS.states[t.previous].word}` : null }, t.status === "RUNNING" && evaluates(model.story) ? "Evaluating" : state.word)),
      h("td", { class: "who" }, t.by),
      h("td", { class: "num" }, t.applied && t.status !== "PENDING" ? duration((until - ms(t.at)) / 1000).replace("–", "") : ""),
      h("td", {}, [t.reason, t.applied ? null : `ignored: the run was ${WORDS.states[t.previous || model.story.status].word.toLowerCase()}`].filter(Boolean).join(" · ")));
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
function activity(model, view) {
  const all = [...model.story.feed].sort((a, b) => ms(b.at) - ms(a.at) || b.id - a.id);
  if (!all.length) return section("activity", "Activity", null, h("p", { class: "empty" }, "Nothing has happened yet. Each status, round, result and message becomes a line here."));
  let limit = STEP;
  const list = h("ol", { class: "feed", tabindex: "0", role: "list", "aria-label": "Activity, newest first" });
  const count = h("span", { role: "status" });
  const more = button("Show more", { class: "screen" }, () => { limit += STEP * 5; draw(); });
  const slots = [...new Set(all.map((x) => x.slot).filter(Boolean))].sort(naturalOrder);
  const kinds = [...new Set(all.map((x) => x.kind))];
  const nameOf = (slot) => (model.bySlot.has(slot) ? model.bySlot.get(slot).name : slot);
  const choose = (label, options) => h("select", { "aria-label": label, onchange: () => { limit = STEP; draw(); } }, h("option", { value: "" }, label), options.map(([v, t]) => h("option", { value: v }, t)));
  const site = choose("Every site", slots.map((x) => [x, nameOf(x)])), kind = choose("Every kind", kinds.map((k) => [k, kindWord(k)]));
  const bad = h("input", { type: "checkbox", onchange: () => { limit = STEP; draw(); } });
  const words = h("input", { type: "search", placeholder: "Search", "aria-label": "Search the activity", oninput: () => { limit = STEP; draw(); } });
  function draw() {
    const text = words.value.trim().toLowerCase();
    const rows = all.filter((x) => (!site.value || x.slot === site.value) && (!kind.value || x.kind === kind.value) && (!bad.checked || !x.success) && (!text || x.text.toLowerCase().includes(text)));
    list.replaceChildren(...rows.slice(0, limit).map((x) => h("li", { id: `feed-${x.id}`, class: [x.success ? "" : "no", x.kind === "round" ? "turn" : ""].join(" ").trim() || null },
      h("a", { href: `#feed-${x.id}` }, time(x.at)), h("span", { class: "soft" }, Number.isFinite(model.start) ? offset((ms(x.at) - model.start) / 1000) : ""),
      h("span", { class: "soft" }, kindWord(x.kind)), x.slot && model.bySlot.has(x.slot) ? siteName(model.bySlot.get(x.slot)) : h("span", {}),
      h("span", { class: "text" }, x.success ? null : h("span", { class: "sr" }, "Failure: "), brief(x, model)))));
    if (!rows.length) list.append(h("li", {}, h("span", { class: "text" }, "No line matches.")));
    const shown = Math.min(limit, rows.length);
    count.textContent = shown < rows.length ? `newest ${shown} of ${rows.length} lines` : plural(rows.length, "line");
    more.hidden = shown >= rows.length;
  }
  // paper cannot be unfolded: it gets the newest lines and says how many there are
  view.brief = (paper) => { limit = paper ? Math.min(limit, 60) : Math.max(limit, STEP); draw(); };
  draw();
  const node = section("activity", "Activity", null, h("div", { class: "controls" }, slots.length > 1 ? site : null, kinds.length > 1 ? kind : null, h("label", {}, bad, "Failures only"), words), list, h("div", { class: "acts" }, more));
  node.querySelector(".head").append(h("p", {}, count));
  return node;
}
