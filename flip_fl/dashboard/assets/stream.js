// What is new in a run: a stream that is resumed where it was cut, and asking again where none comes through.
const SILENT_MS = 6000, POLL_MS = 2000, RETRY_MS = [300, 1000, 2000, 4000, 8000], AGAIN_MS = 60000;

class Source {
  // base: the address of the run in the API; tell: gets {type: delta|again|gone|state, …}
  constructor(base, cursor, tell) {
    Object.assign(this, { base, cursor, tell, tries: 0, broken: 0, state: "", stream: null, timer: 0, quiet: 0, closed: false });
    this.connect();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer); clearTimeout(this.quiet);
    this.stream?.close();
  }

  say(state, detail) {
    if (this.state === state) return;
    this.state = state;
    this.tell({ type: "state", state, detail });
  }

  later(ms, what) { clearTimeout(this.timer); if (!this.closed) this.timer = setTimeout(() => what.call(this), ms); }

  connect() {
    this.stream?.close();
    const stream = this.stream = new EventSource(`${this.base}/stream?since=${encodeURIComponent(this.cursor)}`);
    // a proxy that holds back what it should pass on looks like this
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => { stream.close(); this.give_up(); }, SILENT_MS);
    const heard = () => { clearTimeout(this.quiet); this.tries = this.broken = 0; this.say("live"); };
    stream.addEventListener("delta", (event) => { heard(); this.take(JSON.parse(event.data)); });
    for (const type of ["again", "gone"]) stream.addEventListener(type, () => { heard(); stream.close(); this.close(); this.tell({ type }); });
    stream.onerror = () => { stream.close(); clearTimeout(this.quiet); this.lost(this.retry); };
  }

  take(delta) { this.cursor = delta.cursor; this.tell({ type: "delta", delta }); }

  lost(next) {
    // one cut is nothing: a stream is ended and resumed now and then
    if (this.tries > 0) this.say("away");
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    this.later(wait, next);
  }

  give_up() { this.broken = 0; this.polled = Date.now(); this.poll(); }

  // a hub that answers questions and never streams is asked
  async retry() {
    this.broken += 1;
    if (this.broken > 3) this.give_up(); else if (await this.ask()) this.connect();
  }

  async poll() {
    if (!(await this.ask("polling"))) return;
    if (Date.now() - this.polled > AGAIN_MS) this.connect(); else this.later(POLL_MS, this.poll);
  }

  // true when the hub has answered; else what comes next is arranged
  async ask(state) {
    let answer;
    try {
      answer = await fetch(`${this.base}/changes?since=${encodeURIComponent(this.cursor)}`, { headers: { Accept: "application/json" }, cache: "no-store" });
    } catch { answer = null; }
    if (this.closed) return false;
    if (answer && [400, 401, 403, 404].includes(answer.status)) { this.close(); this.say("refused", answer.status); return false; }
    if (!answer || !answer.ok) { this.lost(state === "polling" ? this.poll : this.retry); return false; }
    const found = await answer.json();
    this.tries = 0;
    if (found.again) { this.close(); this.tell({ type: "again" }); return false; }
    if (state) this.say(state);
    this.take(found);
    return true;
  }
}
