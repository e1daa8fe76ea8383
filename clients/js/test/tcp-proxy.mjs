// A proxy that does to connections what networks do. Knows nothing of HTTP.

import net from "node:net";

/**
 * @param {(connection: number) => { target: string, shred?: number, cutAfter?: number, freezeAfter?: number }} fate
 *   what happens to each connection, counted from 0: where it goes, in pieces of how many bytes its answer comes, and
 *   after how many bytes it is cut, or nothing comes any more
 */
export async function tcpProxy(fate) {
  let [count, asked] = [0, 0];
  const sockets = new Set();
  const server = net.createServer((client) => {
    const { target, shred = Infinity, cutAfter = Infinity, freezeAfter = Infinity } = fate(count++);
    const { hostname, port } = new URL(target);
    const upstream = net.connect(Number(port), hostname);
    let passed = 0;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => {});
    }
    client.once("data", () => asked++); // Node sometimes opens a connection that it has no use for
    client.pipe(upstream);
    upstream.on("data", (data) => {
      const left = Math.min(cutAfter, freezeAfter) - passed;
      const part = data.subarray(0, Math.max(0, left));
      passed += data.length;
      for (let start = 0; start < part.length; start += shred) client.write(part.subarray(start, start + shred));
      if (passed >= cutAfter) client.resetAndDestroy();
    });
    upstream.on("end", () => client.end());
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => passed < freezeAfter && client.end());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** On how many connections something was asked. */
    asked: () => asked,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
