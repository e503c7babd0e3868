import { identityKey, identityPattern, identityPayload } from "./identity.ts";

const EMAIL = "email:";
/** A quoted string of JSON, as values of a name stand in its key. */
const ANY_VALUE = '"(?:[^"\\\\]|\\\\.)*"';

/**
 * True for the keys (`identityKey`) of the identities that a pattern of the cluster file describes: as `identityPattern`, for one
 * whose payload is not at hand any more. Throws `config.invalid`.
 */
export function identityKeyMatcher(text: string): (key: string) => boolean {
  const { wildcard } = identityPattern(text);
  if (wildcard === "any") return () => true;
  if (wildcard === null) {
    const wanted = identityKey(identityPayload("idi", text));
    return (key) => key === wanted;
  }
  if (wildcard === "suffix") {
    const ending = text.slice(1).toLowerCase();
    const isMail = ending.startsWith("@");
    // A domain name's key is the name, the other forms have a colon in it.
    return (key) => (isMail ? key.startsWith(EMAIL) : !key.includes(":")) && endsInside(key.replace(EMAIL, ""), ending);
  }
  // The key of the pattern has "*" where any value may stand.
  const pattern = identityKey(identityPayload("idi", text)).replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const names = new RegExp(`^${pattern.replaceAll('="\\*"', () => `=${ANY_VALUE}`)}$`, "s");
  return (key) => names.test(key);
}

function endsInside(name: string, ending: string): boolean {
  return name.length > ending.length && name.endsWith(ending) && !name.slice(0, -ending.length).includes("@");
}
