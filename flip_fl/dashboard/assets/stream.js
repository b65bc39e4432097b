// What is new in the runs that are shown: one stream, resumed where it was cut, and asking again where none comes through.
const SILENT_MS = 6000, POLL_MS = 2000, RETRY_MS = [300, 1000, 2000, 4000, 8000], AGAIN_MS = 60000, TOGETHER_MS = 30;

class Source {
  // api: the address of the API; tell(run, message): a run's {type: delta|again|gone|refused, …}, or, of all (run null), {type: state, …}
  constructor(api, tell) {
    Object.assign(this, { api, tell, runs: new Map(), tries: 0, broken: 0, state: "", stream: null, timer: 0, quiet: 0, closed: false });
  }

  add(run, cursor) { this.runs.set(run, cursor); this.later(TOGETHER_MS, this.connect); }

  remove(run) {
    this.runs.delete(run);
    if (!this.runs.size) this.close();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer); clearTimeout(this.quiet);
    this.stream?.close();
  }

  say(state, detail) {
    if (this.state === state) return;
    this.state = state;
    this.tell(null, { type: "state", state, detail });
  }

  later(ms, what) { clearTimeout(this.timer); if (!this.closed) this.timer = setTimeout(() => what.call(this), ms); }

  connect() {
    this.stream?.close();
    const places = [...this.runs].map(([run, cursor]) => `run=${run}@${cursor}`).join("&");
    const stream = this.stream = new EventSource(`${this.api}stream?${places}`);
    // a proxy that holds back what it should pass on looks like this
    clearTimeout(this.quiet);
    this.quiet = setTimeout(() => { stream.close(); this.give_up(); }, SILENT_MS);
    const heard = (event) => { clearTimeout(this.quiet); this.tries = this.broken = 0; this.say("live"); return JSON.parse(event.data); };
    stream.addEventListener("delta", (event) => { const { model, news } = heard(event); this.take(model, news); });
    for (const type of ["again", "gone", "refused"]) stream.addEventListener(type, (event) => { const { model, news } = heard(event); this.over(model, { type, status: news.status }); });
    stream.onerror = () => { stream.close(); clearTimeout(this.quiet); this.lost(this.retry); };
  }

  take(run, delta) {
    if (!this.runs.has(run)) return;
    this.runs.set(run, delta.cursor);
    this.tell(run, { type: "delta", delta });
  }

  // nothing more comes of a run here: whoever shows it reads it anew, or says why not
  over(run, message) { this.runs.delete(run); this.tell(run, message); if (!this.runs.size) this.close(); }

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
    for (const [run, cursor] of [...this.runs]) {
      let answer;
      try {
        answer = await fetch(`${this.api}model/${run}/changes?since=${encodeURIComponent(cursor)}`, { headers: { Accept: "application/json" }, cache: "no-store" });
      } catch { answer = null; }
      if (this.closed) return false;
      if (answer && [401, 403].includes(answer.status)) { this.close(); this.say("refused", answer.status); return false; }
      if (answer && [400, 404].includes(answer.status)) { this.over(run, { type: "refused", status: answer.status }); continue; }
      if (!answer || !answer.ok) { this.lost(state === "polling" ? this.poll : this.retry); return false; }
      const found = await answer.json();
      this.tries = 0;
      if (found.again) { this.over(run, { type: "again" }); continue; }
      if (state) this.say(state);
      this.take(run, found);
    }
    return !this.closed;
  }
}
