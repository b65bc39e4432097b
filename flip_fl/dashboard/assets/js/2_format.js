// Numbers, sizes and times as people read them. Every time is UTC.
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (n) => String(n).padStart(2, "0");
const ms = (iso) => (iso ? Date.parse(iso) : NaN);

function day(iso) {
  const d = new Date(ms(iso));
  return `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]} ${d.getUTCFullYear()}`;
}

function clock(iso) {
  const d = new Date(ms(iso));
  return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
}

function time(iso, text) {
  return h("time", { datetime: iso, title: iso, class: "nowrap" }, text || clock(iso));
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `${Math.floor(minutes / 1440)} d ${Math.round((minutes % 1440) / 60)} h`;
}

// 75 s -> 1:15, for columns of offsets
function offset(seconds) {
  const whole = Math.abs(Math.round(seconds)), hours = Math.floor(whole / 3600), rest = `${Math.floor((whole % 3600) / 60)}:${two(whole % 60)}`;
  return (seconds < -0.5 ? "−" : "+") + (hours ? `${hours}:${rest.padStart(5, "0")}` : rest);
}

function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = n, unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

// Numbers that stand together get the same number of decimals: chosen by the largest of them.
function decimals(values) {
  const most = values.reduce((a, b) => (Number.isFinite(b) && Math.abs(b) > a ? Math.abs(b) : a), 0);
  if (most === 0) return 2;
  return Math.min(6, Math.max(0, (most < 1 ? 4 : 3) - Math.max(0, Math.floor(Math.log10(most))) + (most < 0.01 ? 2 : 0)));
}

function number(value, places) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size && (size >= 1e7 || size < 1e-5)) return value.toExponential(2).replace("e+", "e").replace(/-/g, "−");
  return value.toFixed(places === undefined ? decimals([value]) : places).replace("-", "−");
}

function signed(value, places) {
  return (value > 0 ? "+" : "") + number(value, places);
}

const plural = (n, one, many) => `${n} ${n === 1 ? one : many || one + "s"}`;

function listing(names, most = 3) {
  if (names.length <= most) return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0] || "";
  return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
}

// 4, 5, 6, 9 -> "4–6, 9"
function ranges(numbers) {
  const out = [];
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = out.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? `${a}` : b === a + 1 ? `${a}, ${b}` : `${a}–${b}`)).join(", ");
}

function median(values) {
  const sorted = Float64Array.from(values.filter(Number.isFinite)).sort();
  if (!sorted.length) return NaN;
  const mid = sorted.length >> 1;
  return sorted.length % 2 ? sorted[mid] : (sorted[mid - 1] + sorted[mid]) / 2;
}

// A moment as people read it while it ages: "12 s ago", drawn anew by the page's own clock.
function ago(iso, now, ending = " ago") {
  const seconds = Math.max(0, Math.floor((now - ms(iso)) / 1000));
  return h("time", { class: "age", datetime: iso, title: iso, "data-ending": ending }, duration(seconds >= 60 ? seconds - (seconds % (seconds >= 3600 ? 60 : 1)) : Math.max(1, seconds)) + ending);
}

function agelast(now) {
  for (const node of document.querySelectorAll("time.age")) {
    const text = ago(node.dateTime, now, node.dataset.ending).textContent;
    if (node.textContent !== text) node.firstChild.data = text;
  }
}

const largest = (values) => values.reduce((a, b) => (b > a ? b : a), -Infinity);
const smallest = (values) => values.reduce((a, b) => (b < a ? b : a), Infinity);
