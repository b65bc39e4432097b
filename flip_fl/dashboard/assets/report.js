async function inlined(node) {
  const packed = Uint8Array.from(atob(node.textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function begin() {
  const root = document.getElementById("page"), data = document.getElementById("story");
  mount(await inlined(data), root);
  document.documentElement.dataset.ready = "true";
}

// Without a working script the page keeps what was written into it.
begin().catch((error) => { document.documentElement.dataset.ready = "failed"; console.error(error); });
