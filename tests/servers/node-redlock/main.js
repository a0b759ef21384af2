// A process that takes a lock on several Redis servers by node-redlock, as services in Node do.
//
// `node main.js SERVERS NAME TTL_MS` reads commands by the line: `lock` tries once, and says "held"
// or "taken"; `unlock` says "released" or "lost". It ends with its input.
import { createInterface } from "node:readline";

import { Redis } from "ioredis";
import redlock from "redlock";

// The package says nothing of types where it is an ES module.
const Redlock = redlock.default ?? redlock;
const [servers, name, ttl] = process.argv.slice(2);
const clients = servers.split(",").map((server) => {
  const [host, port] = server.split(":");
  const client = new Redis({ host, port: Number(port) });
  // Of servers that are down the answer to a command tells.
  client.on("error", () => {});
  return client;
});
const locks = new Redlock(clients, { retryCount: 0, automaticExtensionThreshold: 0 });
locks.on("error", () => {});

let held;
for await (const command of createInterface({ input: process.stdin })) {
  if (command === "lock") {
    try {
      held = await locks.acquire([name], Number(ttl));
      console.log("held");
    } catch {
      console.log("taken");
    }
  } else if (command === "unlock") {
    try {
      await held.release();
      console.log("released");
    } catch {
      console.log("lost");
    }
  } else {
    throw new Error(`no command: ${command}`);
  }
}
clients.forEach((client) => client.disconnect());
