// The charts' section: legend, reading by pointer and keyboard, table and files.
function swatch(site) {
  return s("svg", { class: `swatch c${site.hue}`, viewBox: "0 0 18 8", "aria-hidden": "true" },
    s("line", { x1: 0, x2: 18, y1: 4, y2: 4, "stroke-dasharray": site.dash ? site.dash.split(" ").map((n) => n * 0.8).join(" ") : null }));
}

function siteName(site) {
  return h("span", { class: "site", title: site.name === site.slot ? null : site.slot }, swatch(site), h("span", {}, site.name));
}

const SMOOTHINGS = [0, 0.3, 0.6, 0.9];
const REST_MS = 1000;
const AXES = [["", "own axis"], ["rounds", "rounds"], ["elapsed", "time since the start"], ["clock", "clock, UTC"]];

function noCurves(model) {
  const over = TERMINAL.has(model.story.status);
  return section("curves", "Curves", null, h("div", { class: "empty" },
    h("p", {}, over ? "No metric arrived in this run. " : model.story.status === "PENDING" ? "The run has not begun, so no metric is awaited yet. " : "No metric has arrived yet; the first is awaited at the end of round 1. ",
      "Numbers that train and validate return become curves, and so does what they log:"),
    h("pre", {}, 'return {"num_examples": n, "loss": loss}\nsite.log("loss", loss)')));
}

// The part lives as long as the page: charts stay where they are when numbers are added to them.
function curves(first, view) {
  if (!first.plots.length) return { node: noCurves(first), renew: (model) => (model.plots.length || model.story.status !== first.story.status ? curves(model, view) : null) };
  let model = first;
  const figures = new Map(), near = new Set(), hint = h("span", {}), list = h("ul", { class: "legend", "aria-label": "Sites shown" });
  const grid = h("div", { class: "charts" });
  // many charts: only those near the view are drawn
  const watch = new IntersectionObserver((seen) => seen.forEach((e) => {
    const f = figures.get(Number(e.target.id.slice(5)));
    if (!f) return;
    f.near = e.isIntersecting;
    if (f.near) { near.add(f); soon(f, () => { if (f.near) { f.draw(false); f.focus(view.focus); } }); } else if (figures.size > 12) near.delete(f);
  }), { rootMargin: "600px" });
  // a chart of which few points came is completed when it rests in view, one after another
  let resting = 0;
  const complete = () => {
    resting = 0;
    for (const f of near) if (f.thin() && inView(f.node) && view.complete(f.thin(), view)) return;
  };
  view.rest = () => { if (view.complete) resting = resting || setTimeout(complete, REST_MS); };
  window.addEventListener("scroll", () => { clearTimeout(resting); resting = 0; view.rest(); }, { passive: true });
  const redraw = () => { near.forEach((f) => f.draw(true)); status(); };
  // all charts are equally wide: one is measured, so that the page is not laid out for each
  let column = 0;
  view.room = (holder) => (column ||= holder.clientWidth);
  const showAll = button("show all", { class: "plain" }, () => { view.hidden.clear(); sync(); redraw(); announce("All sites shown"); });
  let entries = [];
  const sync = () => { entries.forEach((e) => e.node.setAttribute("aria-pressed", String(!view.hidden.has(e.site.slot)))); view.save(); };
  const status = () => {
    hint.textContent = view.hidden.size ? `${view.hidden.size} of ${model.sites.length} hidden –` : "";
    showAll.hidden = !view.hidden.size;
    whole.hidden = view.from === null && view.to === null && !view.span;
  };
  const entry = (site) => {
    const node = button([swatch(site), h("span", {}, site.name), site.name === site.slot ? null : h("span", { class: "slot" }, site.slot)], {
      class: "site", "aria-pressed": String(!view.hidden.has(site.slot)), title: `${site.slot}: click hides or shows it, shift-click shows it alone`,
      onmouseenter: () => view.setFocus(site.slot), onmouseleave: () => view.setFocus(null),
      onfocus: () => view.setFocus(site.slot), onblur: () => view.setFocus(null),
    }, (event) => {
      if (event.shiftKey) model.sites.forEach((o) => (o.slot === site.slot ? view.hidden.delete(o.slot) : view.hidden.add(o.slot)));
      else if (!view.hidden.delete(site.slot)) view.hidden.add(site.slot);
      sync(); redraw();
      announce(`${site.name} ${view.hidden.has(site.slot) ? "hidden" : "shown"}`);
    });
    return { site, node };
  };
  const choice = (label, options, name, parse) => {
    const node = h("select", { onchange: (e) => { view[name] = parse(e.target.value); view.save(); redraw(); } }, options.map(([v, text]) => h("option", { value: v }, text)));
    node.value = String(view[name]);
    return h("label", {}, `${label} `, node);
  };
  const bound = (name, label) => h("input", { type: "number", min: 1, step: 1, inputmode: "numeric", "aria-label": label, onchange: (e) => view.zoom({ ...{ from: view.from, to: view.to }, [name]: e.target.value === "" ? null : Number(e.target.value) }) });
  const from = bound("from", "First round shown"), to = bound("to", "Last round shown");
  const whole = button("all rounds", { class: "plain" }, () => { view.look(null); view.zoom({ from: null, to: null }); });
  const logarithmic = h("input", { type: "checkbox", onchange: (e) => { view.log = e.target.checked; view.save(); redraw(); } });
  logarithmic.checked = view.log;
  view.zoom = ({ from: a, to: b }) => {
    [view.from, view.to] = [a, b].map((n) => (Number.isFinite(n) && n !== null ? Math.max(0, Math.round(n)) : null));
    if (view.from !== null && view.to !== null && view.from > view.to) [view.from, view.to] = [view.to, view.from];
    from.value = view.from ?? ""; to.value = view.to ?? "";
    view.save();
    figures.forEach((f) => f.zoomed());
    redraw();
    announce(view.from === null && view.to === null ? "All rounds shown" : `Rounds ${view.from ?? "first"} to ${view.to ?? "last"} shown`);
  };
  view.look = (span) => {
    const changed = [view.span?.plot, span?.plot].map((k) => figures.get(k)).filter(Boolean);
    view.span = span;
    view.save();
    changed.forEach((f) => { f.zoomed(); f.draw(true); });
    status();
    if (changed.length) announce(span ? `${span.low} to ${span.high} shown` : "The whole axis shown");
  };
  view.setFocus = (slot) => {
    view.focus = slot;
    near.forEach((f) => f.focus(slot));
  };
  view.redraw = redraw;
  view.resize = () => { column = 0; near.forEach((f) => f.draw(false)); };
  view.fit = (width) => figures.forEach((f) => f.draw(true, width));
  const controls = h("div", { class: "controls" }, choice("Smoothing", SMOOTHINGS.map((v) => [v, v ? String(v) : "off"]), "smooth", Number),
    choice("Along", AXES, "x", String), h("label", {}, logarithmic, "log"), h("span", { class: "bounds", role: "group", "aria-label": "Rounds shown" }, "Rounds ", from, "–", to, whole));
  const node = section("curves", "Curves", "One line a site, named at its end. A gap is a round without a value; × marks a value that was not finite.",
    list, grid);
  node.querySelector(".head").append(controls);

  function renew(next) {
    model = next;
    const order = [...model.plots].sort((a, b) => a.single - b.single || a.training - b.training);
    const n = order.length;
    const cols = String(n === 1 ? 1 : n === 2 || n === 4 || model.sites.length > 12 ? 2 : 3);
    if (grid.dataset.cols !== cols) { grid.dataset.cols = cols; view.resize(); }
    const fresh = order.filter((plot) => !figures.has(plot.index));
    for (const plot of order) {
      const known = figures.get(plot.index);
      if (known) known.set(plot);
      else { const f = figure(plot, view); f.near = n <= 12 && !plot.listed; figures.set(plot.index, f); if (f.near) near.add(f); }
    }
    if (fresh.length) {
      grid.append(...order.map((plot) => figures.get(plot.index).node));
      fresh.forEach((plot) => watch.observe(figures.get(plot.index).node));
    }
    if (entries.map((e) => e.site.slot + e.site.name).join("\n") !== model.sites.map((x) => x.slot + x.name).join("\n")) {
      entries = model.sites.map(entry);
      list.replaceChildren(...entries.map((e) => h("li", {}, e.node)), h("li", { class: "small soft screen" }, hint, showAll));
    }
    controls.hidden = !model.plots.some((p) => p.xs.length > 4 || p.listed);
    from.value = view.from ?? ""; to.value = view.to ?? "";
    status();
    return null;
  }
  renew(first);
  sync();
  return { node, renew };
}

function inView(node) {
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < window.innerHeight;
}

function figure(first, view) {
  let plot = first;
  const id = `plot-${plot.index}`;
  const summary = h("p", {});
  const title = plot.label + (plot.single ? (plot.xs[0] === 0 ? ", final" : plot.byRound ? `, round ${plot.xs[0]}` : ` at ${plot.xLabel} ${plot.xs[0]}`) : plot.byRound ? "" : ` by ${plot.xLabel}`);
  const holder = h("div", { class: "plot", role: "slider", tabindex: "0", "aria-label": `${title}: read values with the arrow keys`, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "no point chosen" });
  // what is still to be fetched or drawn has its height already: only what is near is, and then nothing moves
  const coming = () => h("p", { class: "empty coming" }, `${plural(plot.total, "point")} are being fetched …`);
  if (plot.listed) holder.append(coming());
  if (!plot.single) holder.style.minHeight = `${heightOf(plot.series.length, 240)}px`;
  const tip = h("div", { class: "tip", hidden: true });
  const extra = h("div", {});
  const note = h("span", { class: "note" });
  const toggle = button("Table", { class: "plain", "aria-pressed": "false", "aria-label": `${title} as a table` }, () => {
    const on = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(on));
    holder.hidden = on;
    extra.replaceChildren(...(on ? [pointsTable(plot, 0)] : []));
    if (!on) draw(true);
  });
  const node = h("figure", { class: "chart", id, "aria-labelledby": `${id}-t` },
    h("figcaption", {}, h("h3", { id: `${id}-t` }, title), summary), holder, tip, extra,
    h("div", { class: "chart-foot" }, toggle,
      button("CSV", { class: "plain", "aria-label": `${title} as CSV` }, () => (view.csv ? view.csv(plot) : download(fileName(plot, "csv"), new Blob([csv(plot)], { type: "text/csv" })))),
      button("SVG", { class: "plain", "aria-label": `${title} as SVG` }, () => chart && download(fileName(plot, "svg"), new Blob([svgFile(chart, `${title}${chart.note() ? ` (${chart.note()})` : ""}`)], { type: "image/svg+xml" }))),
      button("PNG", { class: "plain", "aria-label": `${title} as PNG` }, () => chart && png(chart, (blob) => download(fileName(plot, "png"), blob))),
      note));
  let chart = null, chosen = -1, pressed = null, whole = false;
  const xs = () => (chart ? chart.plot.xs : []);
  const thin = () => (chart && plot.thinned && !view.smooth ? plot : null);
  const self = { node, near: true, holder, draw, set, zoomed, focus, thin };

  function set(next) {
    if (next === plot) return;
    plot = next;
    if (toggle.getAttribute("aria-pressed") === "true") { extra.firstChild?.renew(plot); return; }
    if (!self.near) chart = null;
    else if (plot.total > AT_ONCE) soon(self, () => draw(true));
    else draw(true);
  }
  // a thinned plot is fetched anew for the rounds that are shown
  function zoomed() { if (view.load && (plot.thinned || plot.partial)) view.load(plot, view); }
  function draw(force, forced) {
    const width = holder.hidden ? 0 : Math.round(forced || view.room(holder));
    if (!width || (!force && chart && chart.width === width)) return;
    if (plot.listed) {
      holder.replaceChildren(coming());
      view.load?.(plot, view);
      return;
    }
    const was = chosen >= 0 && !tip.hidden ? xs()[chosen] : null;
    if (view.smooth && plot.thinned && !whole) { whole = true; zoomed(); }
    chart = drawChart(plot, view, width, forced ? PAPER : undefined);
    holder.replaceChildren(chart.svg);
    holder.style.minHeight = "";
    goOn(chart, forced);
    holder.setAttribute("aria-valuemax", String(Math.max(0, xs().length - 1)));
    summary.textContent = clean((view.summarise || summarise)(plot, view.hidden));
    // whoever reads a point goes on reading it
    if (was !== null && xs().includes(was)) choose(xs().indexOf(was)); else hide();
  }
  // the lines of a chart of many points come in several tasks; paper waits for all of them
  function goOn(drawing, whole) {
    while (drawing.more() && whole);
    if (drawing.more.left()) { soon(drawing, () => { if (chart === drawing) goOn(drawing); }); return; }
    note.textContent = drawing.note();
    view.rest();
    if (view.focus) focus(view.focus);
  }
  // brings the line of one site to the front and fades the others, which are one group: no line of it is touched
  function focus(slot) {
    if (!chart) return;
    const { svg, lines, cursor } = chart, mine = slot && [...lines.children].find((g) => g.dataset.slot === slot), was = svg.querySelector(".series.on");
    if (was && was.dataset.slot === slot) return;
    if (was) { was.classList.remove("on"); lines.append(was); }
    svg.classList.toggle("focusing", Boolean(mine));
    if (!mine) return;
    mine.classList.add("on");
    svg.insertBefore(mine, cursor);
  }
  function choose(index) {
    chosen = Math.max(0, Math.min(xs().length - 1, index));
    const x = xs()[chosen];
    if (x === undefined || !chart) return;
    const q = chart.plot, rows = chart.shown.filter((one) => one.at.has(x)).map((one) => ({ one, y: one.at.get(x).y, round: one.at.get(x).round })).sort((a, b) => (b.y ?? -Infinity) - (a.y ?? -Infinity));
    const cx = chart.px(x);
    if (!chart.still) chart.cursor.replaceChildren(s("line", { x1: cx, x2: cx, y1: chart.box.top, y2: chart.box.bottom }),
      ...rows.filter((r) => r.y !== null && chart.usable(r.y)).map((r) => s("circle", { class: `c${r.one.hue}`, cx, cy: chart.py(r.y), r: 3.4 })));
    const where = q.axis === "elapsed" || q.axis === "clock" ? `Round ${rows[0]?.round}, ${q.axis === "clock" ? `${clock(new Date(x).toISOString())} UTC` : `after ${duration(x)}`}` : q.axis === "rounds" ? `Round ${number(x, 2)}` : `${q.byRound ? "Round" : q.xLabel} ${x}`;
    const most = 24;
    tip.replaceChildren(h("b", {}, where), h("ul", { class: rows.length > 12 ? "two" : null }, rows.slice(0, most).map((r) =>
      h("li", {}, siteName(r.one), h("span", { class: "v" }, r.y === null ? "not finite" : number(r.y, plot.places))))),
      rows.length > most ? h("div", { class: "soft" }, `and ${rows.length - most} more in the table`) : "");
    tip.hidden = false;
    const room = node.clientWidth - tip.offsetWidth, want = cx + 14 <= room ? cx + 14 : cx - tip.offsetWidth - 14;
    tip.style.left = `${Math.max(0, Math.min(room, want))}px`;
    tip.style.top = `${holder.offsetTop + 4}px`;
    holder.setAttribute("aria-valuenow", String(chosen));
    holder.setAttribute("aria-valuetext", clean(`${where}: ${rows.map((r) => `${r.one.name} ${r.y === null ? "not finite" : number(r.y, plot.places)}`).join(", ") || "no value"}`));
  }
  function hide() { tip.hidden = true; if (chart) chart.cursor.replaceChildren(); }
  const placed = (event) => ((event.clientX - holder.getBoundingClientRect().left) / holder.clientWidth) * chart.width;
  function nearest(event) {
    const at = placed(event), list = xs();
    let low = 0, high = list.length - 1;
    while (low < high) { const mid = (low + high) >> 1; if (chart.px(list[mid]) < at) low = mid + 1; else high = mid; }
    return low > 0 && Math.abs(chart.px(list[low - 1]) - at) <= Math.abs(chart.px(list[low]) - at) ? low - 1 : low;
  }
  const roundAt = (k) => { const x = xs()[k]; for (const one of chart.shown) if (one.at.has(x)) return one.at.get(x).round; return null; };
  holder.addEventListener("pointermove", (event) => {
    if (!chart || chart.still || !xs().length) return;
    choose(nearest(event));
    if (pressed !== null && event.buttons & 1) {
      const here = Math.max(chart.box.left, Math.min(chart.box.right, placed(event)));
      chart.cursor.append(s("rect", { class: "span", x: Math.min(pressed, here), y: chart.box.top, width: Math.abs(here - pressed), height: chart.box.bottom - chart.box.top }));
    }
  });
  holder.addEventListener("pointerdown", (event) => { pressed = chart && !chart.still && event.pointerType === "mouse" && event.button === 0 ? placed(event) : null; if (pressed !== null) event.preventDefault(); });
  holder.addEventListener("pointerup", (event) => {
    const begun = pressed;
    pressed = null;
    if (begun === null || Math.abs(placed(event) - begun) < 12) { holder.focus({ preventScroll: true }); return; }
    const end = nearest(event), half = { clientX: (begun / chart.width) * holder.clientWidth + holder.getBoundingClientRect().left };
    choosePart(Math.min(nearest(half), end), Math.max(nearest(half), end));
  });
  // rounds are chosen for all charts; a round of many local steps is looked into on the chart's own axis
  const ownAxis = () => !plot.byRound && !chart.plot.axis;
  function choosePart(a, b) {
    if (ownAxis()) view.look({ plot: plot.index, low: xs()[a], high: xs()[b] });
    else view.zoom({ from: roundAt(a), to: roundAt(b) });
  }
  const wholePart = () => { view.look(null); view.zoom({ from: null, to: null }); };
  holder.addEventListener("dblclick", wholePart);
  holder.addEventListener("pointerleave", () => { pressed = null; hide(); });
  holder.addEventListener("blur", hide);
  holder.addEventListener("focus", () => { if (holder.matches(":focus-visible")) choose(chosen < 0 ? xs().length - 1 : chosen); });
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") hide();
    if (["+", "-", "0"].includes(event.key) && chart && !chart.still && xs().length > 1 && !event.ctrlKey && !event.metaKey) {
      const list = xs(), mid = chosen < 0 ? list.length - 1 : chosen, reach = Math.max(1, Math.round((list.length - 1) / 4));
      event.preventDefault();
      const span = ownAxis() && view.span?.plot === plot.index ? view.span : null;
      if (event.key === "+") choosePart(Math.max(0, mid - reach), Math.min(list.length - 1, mid + reach));
      else if (event.key === "0") wholePart();
      else if (span) { const more = (span.high - span.low) / 2; view.look({ ...span, low: span.low - more, high: span.high + more }); }
      else if (view.from === null || view.to === null) view.zoom({ from: null, to: null });
      else { const more = Math.max(1, Math.round((view.to - view.from) / 2)); view.zoom({ from: Math.max(1, view.from - more), to: view.to + more }); }
      return;
    }
    if (step === undefined) return;
    event.preventDefault();
    choose((chosen < 0 ? xs().length - 1 : chosen) + step);
  });
  return self;
}

const PAGE = 25, PAPER = 165, AT_ONCE = 5000;
function pointsTable(plot, page) {
  const rows = plot.xs.slice(page * PAGE, page * PAGE + PAGE), last = Math.ceil(plot.xs.length / PAGE) - 1;
  const box = h("div", {}, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${plot.label}, values` },
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, plot.byRound ? "Round" : plot.xLabel), plot.series.map((one) => h("th", { scope: "col", class: "num" }, one.name)))),
      h("tbody", {}, rows.map((x) => h("tr", {}, h("th", { scope: "row" }, String(x)), plot.series.map((one) => {
        const p = one.at.get(x);
        return h("td", { class: "num" }, p ? (p.y === null ? "not finite" : number(p.y, plot.places)) : "");
      })))))));
  box.renew = (next) => swap(box, pointsTable(next, Math.min(page, Math.ceil(next.xs.length / PAGE) - 1)));
  if (last > 0) {
    const go = (to) => { const next = pointsTable(plot, to); box.replaceWith(next); };
    box.append(h("div", { class: "acts" }, button("Earlier", { disabled: page === 0 }, () => go(page - 1)), button("Later", { disabled: page === last }, () => go(page + 1)),
      h("span", { class: "soft small" }, `rows ${page * PAGE + 1} to ${page * PAGE + rows.length} of ${plot.xs.length}`)));
  }
  return box;
}

const fileName = (plot, ending) => `${plot.label}_${plot.xLabel}`.replace(/[^A-Za-z0-9._-]+/g, "_").slice(0, 80) + `.${ending}`;

function csv(plot) {
  // a cell that a spreadsheet would run as a formula is quoted as text
  const cell = (v) => { const t = String(v); const safe = /^[=+\-@\t\r]/.test(t) && Number.isNaN(Number(t)) ? `'${t}` : t; return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe; };
  const out = ["slot,site,metric,x_label,x,round,value,superseded"];
  for (const one of plot.series) {
    for (const p of one.earlier) out.push([one.slot, one.name, plot.label, plot.xLabel, p.x, p.round, p.y === null ? "" : p.y, "yes"].map(cell).join(","));
    for (const p of one.points) out.push([one.slot, one.name, plot.label, plot.xLabel, p.x, p.round, p.y === null ? "" : p.y, ""].map(cell).join(","));
  }
  return out.join("\r\n") + "\r\n";
}

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity", "font-family", "font-size", "font-weight", "text-anchor"];
function svgFile(chart, title) {
  while (chart.more());
  // files are for paper and slides: always in the light colours
  const root = document.documentElement, theme = root.dataset.theme;
  root.dataset.theme = "light";
  const copy = chart.svg.cloneNode(true);
  const from = [chart.svg, ...chart.svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((node, k) => { const style = getComputedStyle(node); for (const name of KEPT) to[k].setAttribute(name, style.getPropertyValue(name)); to[k].removeAttribute("class"); });
  const paper = s("rect", { width: "100%", height: "100%", fill: "#ffffff" });
  copy.prepend(paper);
  if (title) copy.prepend(s("title", {}, title));
  copy.setAttribute("xmlns", SVG);
  copy.removeAttribute("aria-hidden");
  root.dataset.theme = theme;
  return new XMLSerializer().serializeToString(copy);
}

function png(chart, done) {
  const url = URL.createObjectURL(new Blob([svgFile(chart)], { type: "image/svg+xml" }));
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = chart.width * 2; canvas.height = chart.height * 2;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(url);
    canvas.toBlob(done, "image/png");
  };
  image.src = url;
}
