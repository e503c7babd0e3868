/** Another program's hand on an outbound state: writes a lease of numbers that nobody granted. Arguments: peer, SPI, first number. */
import { IPPROTO_ESP } from "../../src/xfrm/constants.ts";
import { Leases } from "../../src/xfrm/leases.ts";
import { openXfrm } from "../../src/xfrm/reconciler.ts";

const [destination, spi, first] = process.argv.slice(2);
if (destination === undefined || spi === undefined || first === undefined) throw new Error("usage: PEER SPI FIRST");
const xfrm = openXfrm();
const range = { first: BigInt(first), end: BigInt(first) + 10n };
await new Leases(xfrm).install({ id: { destination, spi: Number(spi), protocol: IPPROTO_ESP }, esn: false }, range);
xfrm.close();
