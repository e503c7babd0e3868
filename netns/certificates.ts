import { initPki, issueCertificate } from "../src/cli/pki.ts";
import { CLUSTER_NAME } from "./cluster-files.ts";
import type { LabNode } from "./layout.ts";

/** The files of one end of the bus, as `esplex node` and `esplex coupling` take them. */
export function credentialArguments(directory: string, name: string): string[] {
  return [
    "--certificate",
    `${directory}/${name}.crt`,
    "--key",
    `${directory}/${name}.key`,
    "--ca",
    `${directory}/ca.crt`,
  ];
}

/** Makes a CA of the lab's own in `directory`, and certificates for the coupling service, the distributor and the targets. */
export async function createCertificates(directory: string, nodes: readonly LabNode[]): Promise<void> {
  await initPki(directory, CLUSTER_NAME);
  const members = nodes.filter(({ role }) => role === "distributor" || role === "target");
  await Promise.all([
    issueCertificate(directory, { kind: "coupling", cluster: CLUSTER_NAME }),
    ...members.map(({ name }) => issueCertificate(directory, { kind: "node", cluster: CLUSTER_NAME, name })),
  ]);
}
