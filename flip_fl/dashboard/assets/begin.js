applyTheme({ theme: themeOf(new URLSearchParams(location.search)) });
window.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("page");
  PAGE_MAKER(root).catch((error) => { document.documentElement.dataset.ready = "failed"; console.error(error); root.append(h("div", { class: "wrap" }, trouble(new Refusal(undefined, error.message)))); });
});
