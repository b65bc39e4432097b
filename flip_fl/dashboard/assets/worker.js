// One stream a run for all tabs of a browser: with HTTP/1.1 it has six connections to a hub.
const sources = new Map();

onconnect = (event) => {
  const port = event.ports[0];
  let key = null;
  const leave = () => {
    const known = sources.get(key);
    if (!known) return;
    known.ports.delete(port);
    if (!known.ports.size) { known.source.close(); sources.delete(key); }
  };
  port.onmessage = ({ data }) => {
    if (data.leave) { leave(); return; }
    key = data.base;
    const known = sources.get(key);
    if (known && !known.source.closed) {
      known.ports.add(port);
      port.postMessage({ type: "state", state: known.source.state });
      port.postMessage({ type: "at", cursor: known.source.cursor });
      return;
    }
    const ports = new Set([port]);
    sources.set(key, { ports, source: new Source(data.base, data.cursor, (message) => ports.forEach((p) => p.postMessage(message))) });
  };
  port.start();
};
