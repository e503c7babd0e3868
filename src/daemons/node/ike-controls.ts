import { EsplexError } from "../../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../../core/ip.ts";
import type { IkeSaSummary } from "../../ike/events.ts";
import type { ControlArguments, ControlHandlers } from "../control.ts";
import type { Distributor } from "./distributor.ts";

/** What the command `ikeSas` gives. */
export type IkeStatus = readonly IkeSaSummary[];

/** What an operator may see and order of a distributor's IKE. */
export function ikeControls(
  distributor: Pick<Distributor, "ikeSas" | "rekeyChild" | "rekeyIke" | "synchroniseIke" | "initiate">,
  peerNames: () => readonly string[],
): ControlHandlers {
  return {
    ikeSas: (): IkeStatus => distributor.ikeSas(),
    rekeyChild: (args) => {
      const sa = textOf(args, "sa");
      if (!distributor.rekeyChild(sa)) throw new EsplexError("cluster.unknownSa", `there is no SA ${sa} here`);
    },
    rekeyIke: (args) => {
      const ike = textOf(args, "ike");
      if (!distributor.rekeyIke(ike)) throw new EsplexError("cluster.unknownSa", `there is no IKE SA ${ike} here`);
    },
    synchroniseIke: (args) => {
      const ike = textOf(args, "ike");
      if (!distributor.synchroniseIke(ike))
        throw new EsplexError("cluster.unknownSa", `there is no IKE SA ${ike} here`);
    },
    initiate: (args) => {
      const peer = textOf(args, "peer");
      if (!peerNames().includes(peer)) throw new EsplexError("config.invalid", `the cluster file has no peer ${peer}`);
      distributor.initiate(peer, args["dvipa"] === undefined ? null : canonical(textOf(args, "dvipa")));
    },
  };
}

function canonical(address: string): string {
  return ipFromBytes(ipToBytes(address));
}

function textOf(args: ControlArguments, name: string): string {
  const value = args[name];
  if (typeof value === "string" && value !== "") return value;
  throw new EsplexError("config.invalid", `${name} is missing`);
}
