// All runs, and who holds which slot.
const RUN_STATES = [["", "Every state"], ["live", "Under way"], ["finished", "Finished"], ["failed", "Failed"], ["stopped", "Stopped"], ["draft", "Drafts"]];
const MOST_COMPARED = 5;

async function runsPage(root) {
  const view = plainView(), given = new URLSearchParams(location.search), chosen = new Set();
  let rows = [], more = false, projects = [], stream = null, offset_ms = 0;
  const now = () => Date.now() + offset_ms;
  const text = h("input", { type: "search", placeholder: "Name, project or id", "aria-label": "Search runs", value: given.get("text") || "" });
  const trust = h("input", { type: "search", placeholder: "Trust or slot", "aria-label": "Only runs with this trust or slot", value: given.get("trust") || "" });
  const state = h("select", { "aria-label": "State" }, RUN_STATES.map(([v, t]) => h("option", { value: v }, t)));
  const project = h("select", { "aria-label": "Project" }, h("option", { value: "" }, "Every project"));
  state.value = given.get("state") || "";
  const status = h("p", { class: "soft", role: "status" }), body = h("tbody", {}), older = button("Older runs", {}, () => load(true));
  const compare = button("Compare", { disabled: true, title: "choose two to five runs" }, () => { location.href = page(`compare?runs=${[...chosen].join(",")}`); });
  const table = h("table", { class: "runs" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "sr" }, "Compare")), ["Run", "State", "Rounds", "Sites", "Begun", "Took"].map((x) => h("th", { scope: "col" }, x)))), body);
  const list = h("section", { class: "card", "aria-labelledby": "runs-h" }, h("div", { class: "head" }, h("h1", { id: "runs-h", class: "shown" }, "Runs"), status),
    h("form", { class: "controls filters", role: "search", "aria-label": "Filter the runs", onsubmit: (e) => { e.preventDefault(); load(); } }, text, state, project, trust, compare),
    h("div", { class: "scroll" }, table), h("div", { class: "acts" }, older));
  const banner = h("p", { class: "banner", role: "status", hidden: true });
  root.replaceChildren(frame("runs", view), banner, h("main", { id: "main", class: "wrap", tabindex: "-1" }, list), h("footer", { class: "wrap" }, "All times are UTC."), ...regions());

  const query = () => {
    const out = new URLSearchParams();
    for (const [name, value] of [["text", text.value.trim()], ["state", state.value], ["project", project.value || (projects.length ? "" : given.get("project") || "")], ["trust", trust.value.trim()]]) if (value) out.set(name, value);
    return out;
  };
  function took(r) {
    if (!r.started_at) return "";
    return h("span", {}, h("span", { class: "unit" }, r.ended_at ? "took " : "for "), r.ended_at ? duration((ms(r.ended_at) - ms(r.started_at)) / 1000) : ago(r.started_at, now(), ""));
  }
  function line(r) {
    const box = h("input", { type: "checkbox", "aria-label": `Compare ${r.name}`, onchange: (e) => { if (e.target.checked) chosen.add(r.id); else chosen.delete(r.id); choosing(); } });
    box.checked = chosen.has(r.id);
    const begun = r.started_at || r.created_at;
    return h("tr", { id: `run-${r.id}` }, h("td", { class: "pick" }, box),
      h("th", { scope: "row" }, h("a", { href: page(`models/${r.id}`) }, r.name), h("span", { class: "soft small" }, r.project)),
      h("td", { class: "what" }, stateTag(r.headline)),
      h("td", { class: "n" }, r.round === null ? "–" : r.total_rounds ? `${r.round} of ${r.total_rounds}` : String(r.round), h("span", { class: "unit" }, r.round === null ? " no round yet" : " rounds")),
      h("td", { class: "n" }, String(r.sites), h("span", { class: "unit" }, r.sites === 1 ? " site" : " sites")), h("td", { class: "n" }, time(begun, `${day(begun)}, ${clock(begun).slice(0, 5)}`)), h("td", { class: "n" }, took(r)));
  }
  function choosing() {
    compare.disabled = chosen.size < 2 || chosen.size > MOST_COMPARED;
    compare.textContent = chosen.size > MOST_COMPARED ? `Compare: at most ${MOST_COMPARED}` : chosen.size > 1 ? `Compare ${chosen.size} runs` : "Compare";
  }
  function draw() {
    const filtered = [...query().keys()].length > 0;
    const known = new Map([...body.children].map((node) => [node.id, node]));
    const none = () => h("tr", {}, h("td", { colspan: 7 }, h("div", { class: "empty" }, filtered ? ["No run matches. ", h("a", { href: page("") }, "Show every run")] : ["There is no run yet. An operator makes one: ", h("pre", {}, 'flip-fl hub model add "Breast cancer" --project Pathology')])));
    place(body, rows.length ? rows.map((r) => {
      const next = line(r), old = known.get(next.id);
      if (!old) return next;
      if (!selecting(old)) [...next.cells].forEach((cell, k) => { if (!old.cells[k].isEqualNode(cell)) swap(old.cells[k], cell); });
      return old;
    }) : [none()]);
    const live = rows.filter((r) => ["INITIATED", "PREPARED", "RUNNING"].includes(r.status)).length, bad = rows.filter((r) => r.headline.hint).length;
    status.textContent = rows.length ? `${plural(rows.length, "run")}${more ? " (there are older ones)" : ""}, ${live} under way${bad ? `, ${bad} without news` : ""}` : "";
    older.hidden = !more;
    if (project.options.length !== projects.length + 1 || projects.some((p, k) => project.options[k + 1].value !== p)) project.replaceChildren(h("option", { value: "" }, "Every project"), ...projects.map((p) => h("option", { value: p }, p)));
    project.hidden = projects.length < 2;
  }
  function take(found, further) {
    offset_ms = ms(found.at) - Date.now();
    const wanted = project.value || given.get("project") || "";
    // what was fetched beyond the first page stays behind it
    const ids = new Set(found.runs.map((r) => r.id)), oldest = found.runs.at(-1);
    if (further) { rows = [...rows, ...found.runs]; more = found.more; }
    else {
      const rest = oldest ? rows.filter((r) => !ids.has(r.id) && ms(r.created_at) < ms(oldest.created_at)) : [];
      rows = [...found.runs, ...rest];
      if (!rest.length) more = found.more;
    }
    projects = found.projects;
    draw();
    if (projects.includes(wanted)) project.value = wanted;
    given.delete("project");
  }
  async function load(further = false) {
    const asked = query();
    if (!further) {
      rows = [];
      const shown = new URLSearchParams(asked);
      if (view.theme) shown.set("theme", view.theme);
      keepQuery(shown);
    } else if (rows.length) asked.set("before", rows.at(-1).id);
    try {
      take(await read(`runs?${asked}`), further);
      if (!further) follow(query());
      document.documentElement.dataset.ready = "true";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      stream?.close();
      if ([401, 403].includes(error.status)) { list.replaceChildren(...trouble(error).childNodes); document.documentElement.dataset.ready = "refused"; return; }
      down();
      setTimeout(() => load(further), 4000);
    }
  }
  let lost = null;
  function down() {
    lost = lost ?? now();
    banner.hidden = false;
    banner.textContent = `Not connected since ${clock(new Date(lost).toISOString())} UTC. The list is as it was then; this page asks again by itself.`;
  }
  function follow(asked) {
    stream?.close();
    stream = new EventSource(api(`runs/stream?${asked}`));
    let missed = 0;
    stream.addEventListener("runs", (event) => { missed = 0; lost = null; banner.hidden = true; take(JSON.parse(event.data)); });
    stream.onerror = () => { missed += 1; if (missed > 1) down(); if (stream.readyState === EventSource.CLOSED) setTimeout(() => load(), 4000); };
  }
  for (const node of [state, project]) node.addEventListener("change", () => load());
  let typing = 0;
  for (const node of [text, trust]) node.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => load(), 250); });
  setInterval(() => agelast(now()), 1000);
  // nothing is asked for by a page that nobody sees
  document.addEventListener("visibilitychange", () => { if (document.hidden) stream?.close(); else load(); });
  await load();
}

async function trustsPage(root) {
  const view = plainView(), body = h("tbody", {}), status = h("p", { class: "soft", role: "status" });
  const table = h("table", { class: "runs slots" }, h("thead", {}, h("tr", {}, ["Slot", "Trust", "Last seen", "Runs under way", "Held since"].map((x) => h("th", { scope: "col" }, x)))), body);
  const list = h("section", { class: "card", "aria-labelledby": "trusts-h" }, h("div", { class: "head" }, h("h1", { id: "trusts-h", class: "shown" }, "Trusts"), status),
    h("p", { class: "soft small" }, "Last seen: when a trust last returned or reported something in one of the latest runs. A trust that takes part in no run is not heard of, and need not be."), h("div", { class: "scroll" }, table));
  root.replaceChildren(frame("trusts", view), h("main", { id: "main", class: "wrap", tabindex: "-1" }, list), h("footer", { class: "wrap" }, "All times are UTC."), ...regions());
  let offset_ms = 0;
  async function load() {
    try {
      const found = await read("sites"), now = ms(found.at);
      offset_ms = now - Date.now();
      const held = found.slots.filter((x) => x.trust).length, live = found.slots.filter((x) => x.live_runs).length;
      status.textContent = found.slots.length ? `${held} of ${plural(found.slots.length, "slot")} held, ${live} at work` : "";
      body.replaceChildren(...found.slots.map((x) => h("tr", {}, h("th", { scope: "row" }, x.slot),
        h("td", { class: "what" }, x.trust ? [x.trust, x.code ? h("span", { class: "soft small" }, x.code) : null] : h("span", { class: "soft" }, x.retired_at ? "retired: its credentials were withdrawn" : x.revoked ? "free again: the last holder's credentials were withdrawn" : "free")),
        h("td", { class: "n" }, x.seen_at ? ago(x.seen_at, now) : x.trust ? h("span", { class: "soft" }, "not yet") : ""), h("td", { class: "n" }, x.trust ? String(x.live_runs) : "", x.trust ? h("span", { class: "unit" }, x.live_runs === 1 ? " run under way" : " runs under way") : null),
        h("td", { class: "n" }, x.assigned_at && x.trust ? [h("span", { class: "unit" }, "since "), time(x.assigned_at, day(x.assigned_at))] : ""))));
      if (!found.slots.length) body.append(h("tr", {}, h("td", { colspan: 5 }, h("div", { class: "empty" }, "There is no slot yet. An operator makes some:", h("pre", {}, "flip-fl hub init --slots 2")))));
      document.documentElement.dataset.ready = "true";
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      list.replaceChildren(...trouble(error).childNodes);
      document.documentElement.dataset.ready = "refused";
    }
  }
  setInterval(() => agelast(Date.now() + offset_ms), 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) load(); });
  await load();
}
