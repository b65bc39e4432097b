// What all pages of a hub have in common: where things are, the bar, and words for what went wrong.
const BODY = () => document.body.dataset;
const api = (path) => new URL(`${BODY().root}api/${path}`, location.href).href;
const page = (path) => `${BODY().root}${path}`;

class Refusal extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function read(path) {
  let answer;
  try {
    answer = await fetch(path.startsWith("http") ? path : api(path), { headers: { Accept: "application/json" } });
  } catch { throw new Refusal(0, "no answer"); }
  if (!answer.ok) throw new Refusal(answer.status, (await answer.json().catch(() => ({}))).detail || answer.statusText);
  return answer.json();
}

// Text, cause, next step: never an empty box.
function trouble(error) {
  const here = encodeURIComponent(location.pathname.split("/").slice(BODY().root ? -2 : -1).join("/") + location.search);
  const login = h("a", { href: page(`login?next=${here}`) }, "Log in again"), all = h("a", { href: page("") }, "all runs");
  const [title, cause, next] = {
    0: ["The hub does not answer", "It is down, is being restarted, or the network between here and it is cut.", ["What runs goes on without it. This page asks again every few seconds."]],
    401: ["You are not logged in any more", "The session has ended, or its token was withdrawn.", [login, "."]],
    403: ["This login may not see this", "It reaches other projects only.", ["Ask whoever looks after the hub, or see ", all, "."]],
    404: ["No such run", "No run has this address, or it belongs to a project that this login does not reach.", ["See ", all, "."]],
    400: ["This run was deleted", "Somebody deleted it while the page was open. What was recorded of it is kept for the audit.", ["See ", all, "."]],
    503: ["The hub is busy", "Its database does not answer just now.", ["This page asks again every few seconds."]],
  }[error.status] || ["This cannot be shown", `The hub answered ${error.status || error.message}.`, ["Load the page again; if it stays so, tell whoever looks after the hub."]];
  return h("section", { class: "card trouble", "aria-labelledby": "trouble-h" }, h("h1", { id: "trouble-h", class: "shown" }, title), h("p", {}, cause), h("p", {}, next));
}

function frame(here, view, ...tools) {
  const link = (to, id, text) => h("a", { href: page(to), "aria-current": here === id ? "page" : null }, text);
  return h("header", { class: "bar" }, h("div", { class: "wrap" },
    h("span", { class: "mark" }, "FLIP hub"), h("nav", { "aria-label": "Pages" }, link("", "runs", "Runs"), link("trusts", "trusts", "Trusts")),
    h("div", { class: "tools" }, tools, who(), themeChoice(view))));
}

function who(size = null) {
  if (!BODY().who || BODY().kind !== "session") return null;
  return button("Log out", { class: size, title: `logged in as ${BODY().who}` }, async () => {
    const session = await read("session");
    const form = h("form", { method: "post", action: page("logout"), hidden: true }, h("input", { type: "hidden", name: "csrf", value: session.csrf }));
    document.body.append(form);
    form.submit();
  });
}

function plainView() {
  const given = new URLSearchParams(location.search), view = { theme: themeOf(given) };
  view.save = () => { const out = new URLSearchParams(location.search); out.delete("theme"); if (view.theme) out.set("theme", view.theme); keepQuery(out); };
  applyTheme(view);
  dark.addEventListener("change", () => applyTheme(view));
  return view;
}

const stateTag = (headline) => h("span", { class: `state-word ${headline.tone}` }, icon(headline.tone), h("span", {}, h("b", {}, headline.word), headline.text.length > headline.word.length ? headline.text.slice(headline.word.length).replace(/ - /g, " – ") : ""));
