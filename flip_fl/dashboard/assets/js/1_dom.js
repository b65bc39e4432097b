// Elements are built from text nodes only: nothing that a site wrote is ever parsed as markup.
const SVG = "http://www.w3.org/2000/svg";

// Control and direction-changing characters are shown, not obeyed.
function clean(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (c) => (c < "\u0100" ? "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0") : "\\u" + c.charCodeAt(0).toString(16)));
}

function fill(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : clean(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
  return node;
}

const h = (tag, attrs, ...children) => fill(document.createElement(tag), attrs, children);
const s = (tag, attrs, ...children) => fill(document.createElementNS(SVG, tag), attrs, children);

function button(label, attrs, onclick) {
  return h("button", { type: "button", onclick, ...attrs }, label);
}

// Long work in slices, each thing once: what a person does is answered in between.
const SLICE_MS = 10, jobs = new Map();
let turning = 0;
function soon(what, work) {
  jobs.set(what, work);
  turning = turning || setTimeout(slice);
}
function slice() {
  const until = performance.now() + SLICE_MS;
  turning = 0;
  for (const [what, work] of jobs) {
    jobs.delete(what);
    work();
    if (performance.now() > until) break;
  }
  if (jobs.size) turning = turning || setTimeout(slice);
}

function announce(text, now = false) {
  const region = document.getElementById(now ? "alarm" : "said");
  if (region) region.textContent = clean(text);
}

const regions = () => [h("div", { id: "said", class: "sr", role: "status", "aria-live": "polite" }), h("div", { id: "alarm", class: "sr", role: "alert" })];

// What a person has done to a part stays when the part is drawn anew: what was unfolded, where it was scrolled, the focus.
function swap(old, next) {
  const inside = old instanceof Element && old.contains(document.activeElement) ? document.activeElement : null;
  const name = inside && (inside.id ? `#${CSS.escape(inside.id)}` : inside.getAttribute("aria-label") ? `[aria-label="${CSS.escape(inside.getAttribute("aria-label"))}"]` : inside.href ? `a[href="${CSS.escape(inside.getAttribute("href"))}"]` : inside.tagName.toLowerCase());
  const opened = old instanceof Element ? [...old.querySelectorAll("[id] details[open]")].map((d) => d.closest("[id]").id) : [];
  const rolled = old instanceof Element ? [...old.querySelectorAll(".scroll, .feed, pre")].map((x) => [x.scrollLeft, x.scrollTop]) : [];
  old.replaceWith(next);
  if (!(next instanceof Element)) return next;
  for (const id of opened) for (const d of next.querySelectorAll(`#${CSS.escape(id)} details`)) d.open = true;
  [...next.querySelectorAll(".scroll, .feed, pre")].forEach((x, k) => { if (rolled[k]) [x.scrollLeft, x.scrollTop] = rolled[k]; });
  if (name) next.querySelector(name)?.focus({ preventScroll: true });
  return next;
}

// The children of an element: what stays is not touched, so that nobody loses focus or a click that has begun.
function place(parent, nodes) {
  const kept = new Set(nodes);
  for (const node of [...parent.children]) if (!kept.has(node)) node.remove();
  nodes.forEach((node, k) => { if (parent.children[k] !== node) parent.insertBefore(node, parent.children[k] || null); });
}

// Where a text is marked, noted when it is: asking the selection has the whole page laid out.
let marked = null;
document.addEventListener("selectionchange", () => {
  const chosen = window.getSelection(), range = chosen?.rangeCount ? chosen.getRangeAt(0) : null;
  marked = range && !range.collapsed ? range.startContainer : null;
});
const selecting = (node) => Boolean(marked && node.contains(marked));

function showIcon(tone) {
  const disc = `<circle cx="8" cy="8" r="7" fill="${WORDS.tones[tone]}"/>`;
  document.querySelector("link[rel=icon]")?.setAttribute("href", "data:image/svg+xml," + encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${disc}</svg>`));
}

function copyButton(text, what) {
  const node = button("Copy", { class: "screen", "aria-label": `Copy ${what}` }, () => {
    const done = () => { node.textContent = "Copied"; announce(`Copied ${what}`); setTimeout(() => { node.textContent = "Copy"; }, 1600); };
    // a file opened from disk has no clipboard permission in some browsers
    const byHand = () => {
      const area = h("textarea", { class: "sr", value: text });
      document.body.append(area);
      area.select();
      if (document.execCommand("copy")) done();
      area.remove();
      node.focus();
    };
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(done, byHand);
    else byHand();
  });
  return node;
}

function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const ICONS = { good: "M5.5 10.5l3 3 6-7", active: "M6 10h8M11 6.5l3.5 3.5-3.5 3.5", warn: "M10 5v6M10 14.2v.1", bad: "M6.5 6.5l7 7M13.5 6.5l-7 7", quiet: "M6.5 10h7" };

function icon(tone) {
  return s("svg", { class: `icon ${tone}`, viewBox: "0 0 20 20", "aria-hidden": "true" },
    s("circle", { class: "disc", cx: 10, cy: 10, r: 10 }), s("path", { d: ICONS[tone] || ICONS.quiet }));
}

// How high a part of so many rows is while it is out of view and not laid out.
function rowsHigh(node, rows) {
  const height = `auto ${Math.round(rows * 29 + 150)}px`;
  if (node.style.containIntrinsicHeight !== height) node.style.containIntrinsicHeight = height;
}

function section(id, title, intro, ...children) {
  return h("section", { id, class: "card", "aria-labelledby": `${id}-h` },
    h("div", { class: "head" }, h("h2", { id: `${id}-h` }, title), intro ? h("p", {}, intro) : null), children);
}
