import { FrameWriter } from "../../../src/bus/frames.ts";

/** One buffer with all `bodies` as frames of text. */
export function encodeFrames(bodies: readonly string[], maxFrameBytes?: number): Buffer {
  const writer = new FrameWriter(maxFrameBytes);
  for (const body of bodies) writer.text(body);
  return writer.take();
}
