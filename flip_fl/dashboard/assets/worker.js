// One stream for all tabs of a browser, whatever runs they show: with HTTP/1.1 it has six connections to a hub.
let source = null;
const readers = new Map();

function tell(run, message) {
  for (const [other, ports] of readers) if (run === null || run === other) ports.forEach((p) => p.postMessage(message));
  // a run of which nothing more comes is begun anew by whoever reads it again
  if (["again", "gone", "refused"].includes(message.type)) readers.delete(run);
}

onconnect = (event) => {
  const port = event.ports[0];
  let run = null;
  port.onmessage = ({ data }) => {
    if (data.leave) {
      const ports = readers.get(run);
      if (ports?.delete(port) && !ports.size) { readers.delete(run); source.remove(run); }
      return;
    }
    run = data.run;
    if (!source || source.closed) { readers.clear(); source = new Source(data.api, tell); }
    const known = readers.get(run);
    if (known && source.runs.has(run)) {
      known.add(port);
      port.postMessage({ type: "at", cursor: source.runs.get(run) });
    } else {
      readers.set(run, new Set([...(known || []), port]));
      source.add(run, data.cursor);
    }
    port.postMessage({ type: "state", state: source.state });
  };
  port.start();
};
