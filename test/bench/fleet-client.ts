/**
 * Many peers of one distributor, each with an address, an identity and a certificate of its own: the initiators of `fleet.main.ts`, in
 * the lab's client node. Each line on stdin asks for one line of JSON: `authority`, `negotiate N` (until N are up), `answered`.
 */
import { createPrivateKey } from "node:crypto";
import { createInterface } from "node:readline";
import { TestCertificate } from "../support/certificates.ts";
import { IkeClient } from "./ike-client.ts";
import { FLEET_DOMAIN, fleetAddress, type FleetOrder } from "./ike-lab.ts";

const AT_ONCE = 8;
const DAY_MS = 86_400_000;

const order = JSON.parse(process.argv[2] ?? "") as FleetOrder;
const dates = { notBeforeMs: Date.now() - DAY_MS, notAfterMs: Date.now() + DAY_MS };
const root = TestCertificate.root("CN=Fleet", dates);
const clients: IkeClient[] = [];
process.stdout.write("ready\n");

// One question at a time: the bench waits for each answer.
createInterface({ input: process.stdin })
  .on("line", (line) => void answer(line).then((said) => process.stdout.write(`${JSON.stringify(said)}\n`)))
  .on("close", () => process.exit(0));

async function answer(line: string): Promise<object> {
  const [command, count] = line.split(" ");
  if (command === "authority") return { pem: root.pem };
  if (command === "negotiate") await negotiateTo(Number(count));
  return { up: clients.length, answered: clients.reduce((sum, { answered }) => sum + answered, 0) };
}

async function negotiateTo(total: number): Promise<void> {
  let next = clients.length;
  const loop = async (): Promise<void> => {
    while (next < total) {
      const place = next++;
      clients[place] = await negotiated(place);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, loop));
}

async function negotiated(index: number): Promise<IkeClient> {
  const identity = `c${index}.${FLEET_DOMAIN}`;
  const leaf = root.leaf(`CN=${identity}`, { dns: [identity], ...dates });
  const client = await IkeClient.open(fleetAddress(index), { address: order.responder, port: 500 });
  const certificate = { der: leaf.certificate.der, key: createPrivateKey(leaf.privatePem) };
  await client.negotiate({ identity, certificate }, order.responderIdentity);
  return client;
}
