applyTheme({ theme: themeOf(new URLSearchParams(location.search)) });
window.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("page"), pages = { run: runPage, runs: runsPage, trusts: trustsPage, compare: comparePage };
  const make = pages[BODY().page];
  if (!make) { root.prepend(frame("", plainView())); document.documentElement.dataset.ready = "true"; return; }
  make(root).catch((error) => { document.documentElement.dataset.ready = "failed"; console.error(error); root.append(h("div", { class: "wrap" }, trouble(new Refusal(undefined, error.message)))); });
});
