// The digits of RFC 1924's base 85, but for four that mean something in HTML.
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;/=:?@^_[{|}~";

function bytesOf(text) {
  const value = new Map([...DIGITS].map((c, k) => [c, k])), out = new Uint8Array(Math.ceil(text.length / 5) * 4);
  for (let k = 0, at = 0; k < text.length; k += 5, at += 4) {
    let n = 0;
    for (let j = 0; j < 5; j += 1) {
      // a last group that is short is read as if its end were the highest digit
      const digit = k + j < text.length ? value.get(text[k + j]) : 84;
      if (digit === undefined) throw new Error("the data cannot be read");
      n = n * 85 + digit;
    }
    for (let j = 3; j >= 0; j -= 1) { out[at + j] = n % 256; n = Math.floor(n / 256); }
  }
  return out.subarray(0, out.length - ((5 - (text.length % 5)) % 5));
}

async function inlined(node) {
  const packed = bytesOf(node.textContent.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const story = await new Response(stream).json(), point = ([x, y, round]) => ({ x, y, round });
  for (const one of story.plots.flatMap((p) => p.series)) Object.assign(one, { points: one.points.map(point), earlier: one.earlier.map(point) });
  return story;
}

async function begin() {
  const root = document.getElementById("page"), data = document.getElementById("story");
  mount(await inlined(data), root);
  document.documentElement.dataset.ready = "true";
}

// Without a working script the page keeps what was written into it.
begin().catch((error) => { document.documentElement.dataset.ready = "failed"; console.error(error); });
