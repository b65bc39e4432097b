// The charts' section: legend, reading by pointer and keyboard, table and files.
function swatch(site) {
  return s("svg", { class: `swatch c${site.hue}`, viewBox: "0 0 18 8", "aria-hidden": "true" },
    s("line", { x1: 0, x2: 18, y1: 4, y2: 4, "stroke-dasharray": site.dash ? site.dash.split(" ").map((n) => n * 0.8).join(" ") : null }));
}

function siteName(site) {
  return h("span", { class: "site", title: site.name === site.slot ? null : site.slot }, swatch(site), h("span", {}, site.name));
}

function curves(model, view) {
  if (!model.plots.length) {
    return section("curves", "Curves", null, h("div", { class: "empty" },
      h("p", {}, "No metric has arrived. Numbers that train and validate return become curves, and so does what they log:"),
      h("pre", {}, 'return {"num_examples": n, "loss": loss}\nsite.log("loss", loss)')));
  }
  const figures = [...model.plots].sort((a, b) => a.single - b.single || a.training - b.training).map((plot) => figure(plot, model, view));
  const n = figures.length;
  const grid = h("div", { class: "charts", "data-cols": n === 1 ? 1 : n === 2 || n === 4 || model.sites.length > 12 ? 2 : 3 }, figures.map((f) => f.node));
  // many charts: only those near the view are drawn
  const near = figures.length > 12 ? new Set() : new Set(figures);
  const redraw = () => { near.forEach((f) => f.draw(true)); status(); };
  if (figures.length > 12) {
    const watch = new IntersectionObserver((seen) => seen.forEach((e) => {
      const f = figures.find((x) => x.node === e.target);
      if (e.isIntersecting) { near.add(f); f.draw(false); } else near.delete(f);
    }), { rootMargin: "600px" });
    figures.forEach((f) => watch.observe(f.node));
  }
  const hint = h("span", {});
  const showAll = button("show all", { class: "plain" }, () => { view.hidden.clear(); sync(); redraw(); announce("All sites shown"); });
  const entries = model.sites.map((site) => {
    const node = button([swatch(site), h("span", {}, site.name), site.name === site.slot ? null : h("span", { class: "slot" }, site.slot)], {
      class: "site", "aria-pressed": "true", title: `${site.slot}: click hides or shows it, shift-click shows it alone`,
      onmouseenter: () => view.setFocus(site.slot), onmouseleave: () => view.setFocus(null),
      onfocus: () => view.setFocus(site.slot), onblur: () => view.setFocus(null),
    }, (event) => {
      if (event.shiftKey) model.sites.forEach((o) => (o === site ? view.hidden.delete(o.slot) : view.hidden.add(o.slot)));
      else if (!view.hidden.delete(site.slot)) view.hidden.add(site.slot);
      sync(); redraw();
      announce(`${site.name} ${view.hidden.has(site.slot) ? "hidden" : "shown"}`);
    });
    return { site, node };
  });
  const sync = () => { entries.forEach((e) => e.node.setAttribute("aria-pressed", String(!view.hidden.has(e.site.slot)))); view.save(); };
  const status = () => {
    hint.textContent = view.hidden.size ? `${view.hidden.size} of ${model.sites.length} hidden –` : "";
    showAll.hidden = !view.hidden.size;
  };
  const smoothing = h("select", { onchange: (e) => { view.smooth = Number(e.target.value); view.save(); redraw(); } },
    [0, 0.3, 0.6, 0.9].map((v) => h("option", { value: v }, v ? String(v) : "off")));
  smoothing.value = String(view.smooth);
  view.setFocus = (slot) => {
    view.focus = slot;
    for (const node of document.querySelectorAll("svg.focusing")) node.classList.remove("focusing");
    for (const node of document.querySelectorAll(".series.on")) node.classList.remove("on");
    if (!slot) return;
    for (const g of document.querySelectorAll("g.series")) {
      if (g.dataset.slot !== slot) continue;
      g.classList.add("on");
      g.ownerSVGElement.classList.add("focusing");
      g.ownerSVGElement.insertBefore(g, g.ownerSVGElement.querySelector(".cursor"));
    }
  };
  view.redraw = redraw;
  view.resize = () => near.forEach((f) => f.draw(false));
  view.fit = (width) => figures.forEach((f) => f.draw(true, width));
  sync(); status();
  const multi = model.plots.some((p) => p.xs.length > 4);
  const node = section("curves", "Curves", `One line a site, named at its end. A gap is a round without a value; × marks a value that was not finite.`,
    h("ul", { class: "legend", "aria-label": "Sites shown" }, entries.map((e) => h("li", {}, e.node)), h("li", { class: "small soft screen" }, hint, showAll)),
    grid);
  if (multi) node.querySelector(".head").append(h("div", { class: "controls" }, h("label", {}, "Smoothing ", smoothing)));
  return node;
}

function figure(plot, model, view) {
  const id = `plot-${plot.index}`;
  const summary = h("p", {});
  const holder = h("div", { class: "plot", role: "slider", tabindex: "0", "aria-label": `${plot.label} by ${plot.byRound ? "round" : plot.xLabel}: read values with the arrow keys`, "aria-valuemin": "0", "aria-valuemax": String(Math.max(0, plot.xs.length - 1)), "aria-valuenow": "0", "aria-valuetext": "no point chosen" });
  const tip = h("div", { class: "tip", hidden: true });
  const extra = h("div", {});
  const note = h("span", { class: "note" });
  const title = plot.label + (plot.single ? (plot.xs[0] === 0 ? ", final" : plot.byRound ? `, round ${plot.xs[0]}` : ` at ${plot.xLabel} ${plot.xs[0]}`) : plot.byRound ? "" : ` by ${plot.xLabel}`);
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
      button("CSV", { class: "plain", "aria-label": `${title} as CSV` }, () => download(fileName(plot, "csv"), new Blob([csv(plot)], { type: "text/csv" }))),
      button("SVG", { class: "plain", "aria-label": `${title} as SVG` }, () => download(fileName(plot, "svg"), new Blob([svgFile(chart)], { type: "image/svg+xml" }))),
      button("PNG", { class: "plain", "aria-label": `${title} as PNG` }, () => png(chart, (blob) => download(fileName(plot, "png"), blob))),
      note));
  let chart = null, chosen = -1;

  function draw(force, forced) {
    const width = Math.round(forced || holder.clientWidth);
    if (!width || (!force && chart && chart.width === width)) return;
    chart = drawChart(plot, view, width, forced ? PAPER : undefined);
    holder.replaceChildren(chart.svg);
    summary.textContent = clean(summarise(plot, view.hidden));
    note.textContent = [view.smooth ? `smoothed ${view.smooth}` : "", chart.note].filter(Boolean).join(", ");
    hide();
  }
  function choose(index) {
    chosen = Math.max(0, Math.min(plot.xs.length - 1, index));
    const x = plot.xs[chosen];
    if (x === undefined || !chart) return;
    const rows = chart.shown.filter((one) => one.at.has(x)).map((one) => ({ one, y: one.at.get(x).y })).sort((a, b) => (b.y ?? -Infinity) - (a.y ?? -Infinity));
    const cx = chart.px(x);
    if (!chart.still) chart.cursor.replaceChildren(s("line", { x1: cx, x2: cx, y1: chart.box.top, y2: chart.box.bottom }),
      ...rows.filter((q) => q.y !== null).map((q) => s("circle", { class: `c${q.one.hue}`, cx, cy: chart.py(q.y), r: 3.4 })));
    const where = `${plot.byRound ? "Round" : plot.xLabel} ${x}`;
    const most = 24;
    tip.replaceChildren(h("b", {}, where), h("ul", { class: rows.length > 12 ? "two" : null }, rows.slice(0, most).map((q) =>
      h("li", {}, siteName(q.one), h("span", { class: "v" }, q.y === null ? "not finite" : number(q.y, plot.places))))),
      rows.length > most ? h("div", { class: "soft" }, `and ${rows.length - most} more in the table`) : "");
    tip.hidden = false;
    const room = node.clientWidth - tip.offsetWidth, want = cx + 14 <= room ? cx + 14 : cx - tip.offsetWidth - 14;
    tip.style.left = `${Math.max(0, Math.min(room, want))}px`;
    tip.style.top = `${holder.offsetTop + 4}px`;
    holder.setAttribute("aria-valuenow", String(chosen));
    holder.setAttribute("aria-valuetext", clean(`${where}: ${rows.map((q) => `${q.one.name} ${q.y === null ? "not finite" : number(q.y, plot.places)}`).join(", ") || "no value"}`));
  }
  function hide() { tip.hidden = true; if (chart) chart.cursor.replaceChildren(); }
  function nearest(event) {
    const at = ((event.clientX - holder.getBoundingClientRect().left) / holder.clientWidth) * chart.width;
    let best = 0;
    plot.xs.forEach((x, k) => { if (Math.abs(chart.px(x) - at) < Math.abs(chart.px(plot.xs[best]) - at)) best = k; });
    return best;
  }
  holder.addEventListener("pointermove", (event) => { if (chart && !chart.still && plot.xs.length) choose(nearest(event)); });
  holder.addEventListener("pointerleave", hide);
  holder.addEventListener("blur", hide);
  holder.addEventListener("focus", () => { if (holder.matches(":focus-visible")) choose(chosen < 0 ? plot.xs.length - 1 : chosen); });
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") hide();
    if (step === undefined) return;
    event.preventDefault();
    choose((chosen < 0 ? plot.xs.length - 1 : chosen) + step);
  });
  return { node, draw, holder };
}

const PAGE = 25, PAPER = 165;
function pointsTable(plot, page) {
  const rows = plot.xs.slice(page * PAGE, page * PAGE + PAGE), last = Math.ceil(plot.xs.length / PAGE) - 1;
  const box = h("div", {}, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${plot.label}, values` },
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, plot.byRound ? "Round" : plot.xLabel), plot.series.map((one) => h("th", { scope: "col", class: "num" }, one.name)))),
      h("tbody", {}, rows.map((x) => h("tr", {}, h("th", { scope: "row" }, String(x)), plot.series.map((one) => {
        const p = one.at.get(x);
        return h("td", { class: "num" }, p ? (p.y === null ? "not finite" : number(p.y, plot.places)) : "");
      })))))));
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
  const out = ["slot,site,metric,x_label,x,round,value"];
  for (const one of plot.series) for (const p of one.points) out.push([one.slot, one.name, plot.label, plot.xLabel, p.x, p.round, p.y === null ? "" : p.y].map(cell).join(","));
  return out.join("\r\n") + "\r\n";
}

const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "opacity", "font-family", "font-size", "font-weight", "text-anchor"];
function svgFile(chart) {
  // files are for paper and slides: always in the light colours
  const root = document.documentElement, theme = root.dataset.theme;
  root.dataset.theme = "light";
  const copy = chart.svg.cloneNode(true);
  const from = [chart.svg, ...chart.svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((node, k) => { const style = getComputedStyle(node); for (const name of KEPT) to[k].setAttribute(name, style.getPropertyValue(name)); to[k].removeAttribute("class"); });
  const paper = s("rect", { width: "100%", height: "100%", fill: "#ffffff" });
  copy.prepend(paper);
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
