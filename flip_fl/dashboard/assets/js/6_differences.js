// How the sites' contributions to one round differ, as far as the FL server told it.
const updatesIn = (round) => round.updates || [];

// How many examples each site has trained on in a round: of those whose number may be told.
function examplesIn(model, number) {
  const round = model.story.rounds.find((r) => r.number === number);
  return new Map((round ? updatesIn(round) : []).filter((u) => Number.isFinite(u.examples)).map((u) => [u.slot, u.examples]));
}

const MOST_LABELS = 8;
// A label that a site does not name may be one that it does not have; what is told of it is a number, or "withheld".
function labelCell(u, label) {
  const all = Object.values(u.labels || {}), n = Object.hasOwn(u.labels || {}, label) ? u.labels[label] : undefined;
  if (n === undefined) return "–";
  const sum = all.every(Number.isFinite) ? all.reduce((a, b) => a + b, 0) : 0;
  return Number.isFinite(n) && sum ? [`${number((n / sum) * 100, 1)} %`, h("small", { class: "soft" }, ` n = ${n}`)] : String(n);
}

function differences(first) {
  let model = first, rounds = [], node = null;
  const gather = () => { rounds = model.story.rounds.filter((r) => updatesIn(r).length).sort((a, b) => a.number - b.number); };
  gather();
  if (!rounds.length) return { node: null, renew: (next) => { const part = differences(next); return part.node ? part : null; } };
  const table = h("table", { class: "sites" }), said = h("p", {}), note = h("p", { class: "small soft" }), out = h("output", { class: "nowrap" });
  const slider = h("input", { type: "range", min: 0, "aria-label": "Round in which the sites\u2019 updates are compared", oninput: () => draw() });
  const controls = h("div", { class: "controls" }, slider, out);
  function draw() {
    const round = rounds[Number(slider.value)], told = new Map(updatesIn(round).map((u) => [u.slot, u]));
    const list = model.sites.filter((x) => told.has(x.slot)).map((x) => ({ site: x, ...told.get(x.slot) }));
    const all = [...examplesIn(model, round.number).values()].reduce((a, b) => a + b, 0);
    const held = list.some((u) => u.examples === "withheld"), places = decimals(list.map((u) => u.norm));
    const measured = list.some((u) => u.norm !== null && u.norm !== undefined);
    const columns = measured ? [["Update norm", (u) => number(u.norm, places)], ["Cosine to the mean", (u) => number(u.cosine, 3)]] : [];
    if (list.some((u) => u.examples !== null && u.examples !== undefined)) columns.unshift(["Examples", (u) => u.examples ?? "–"], [held ? "Share of those told" : "Share", (u) => (u.examples === "withheld" ? u.examples : u.examples && all ? `${number((u.examples / all) * 100, 1)} %` : "–")]);
    const labels = [...new Set(list.flatMap((u) => Object.keys(u.labels || {})))];
    for (const label of labels.slice(0, MOST_LABELS)) columns.push([`Label ${label}`, (u) => labelCell(u, label)]);
    out.textContent = `round ${inStage(round)}`;
    slider.setAttribute("aria-valuetext", out.textContent);
    node?.classList.toggle("wide", labels.length > 0);
    table.replaceChildren(
      h("thead", {}, h("tr", {}, ["Site", ...columns.map((c) => c[0])].map((t, k) => h("th", { scope: "col", class: k ? "num" : null }, t)))),
      h("tbody", {}, list.map((u) => h("tr", {}, h("th", { scope: "row" }, siteName(u.site)), columns.map((c) => h("td", { class: "num" }, c[1](u)))))));
    const far = list.filter((u) => Number.isFinite(u.cosine)).sort((a, b) => a.cosine - b.cosine);
    said.textContent = far.length > 1 && number(far[0].cosine, 3) !== number(far.at(-1).cosine, 3) ? clean(`Farthest from the mean: ${far[0].site.name}, cosine ${number(far[0].cosine, 3)}.`) : "";
    note.textContent = clean([measured ? `An update is what training at a site has changed of the model. The mean is ${round.mean === "plain" ? "that of all sites alike: a weighted one would tell numbers of examples that are withheld." : "weighted as the sites were."}` : "",
      labels.length ? "Shares of labels are told where every label of the site is; beside a small number one more is withheld." : "", labels.length > MOST_LABELS ? `Of ${labels.length} labels the first ${MOST_LABELS} are shown; the saved data has all.` : ""].filter(Boolean).join(" "));
  }
  node = section("differences", "Differences between sites", null,
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Differences between sites" }, table), note);
  node.querySelector(".head").append(said, controls);
  const show = (at) => { slider.max = String(rounds.length - 1); slider.value = String(at); controls.hidden = rounds.length < 2; draw(); };
  show(rounds.length - 1);
  // whoever looks at the newest round sees the next one, too; whoever chose a round stays there
  const renew = (next) => {
    if (selecting(node) || (next.story.rounds === model.story.rounds && next.sites === model.sites)) return null;
    const at = Number(slider.value), newest = at === rounds.length - 1, chosen = rounds[at].number;
    model = next;
    gather();
    if (!rounds.length) return differences(next);
    show(newest ? rounds.length - 1 : Math.max(0, rounds.findIndex((r) => r.number === chosen)));
    return null;
  };
  return { node, renew };
}
