// Imports point one way, upward in the list of `src/README.md`; `ike`, `xfrm`, `sequence` and `steer` do not know each other.
const layers = [
  ["core", []],
  ["crypto", ["core"]],
  ["sa", ["core", "crypto"]],
  ["x509", ["core", "crypto"]],
  ["ike", ["core", "crypto", "sa", "x509"]],
  ["xfrm", ["core", "sa", "net"]],
  ["net", ["core"]],
  ["sequence", ["core", "sa"]],
  ["steer", ["core", "crypto", "sa"]],
  ["bus", ["core", "sa"]],
  ["config", ["core", "crypto", "sa", "x509"]],
  ["daemons", ["core", "crypto", "sa", "x509", "ike", "xfrm", "net", "sequence", "steer", "bus", "config"]],
  ["cli", ["core", "config", "bus", "daemons"]],
];
const inside = (name) => `^src/${name}/`;

module.exports = {
  forbidden: [
    ...layers.map(([name, allowed]) => ({
      name: `layer-${name}`,
      comment: `src/${name} may import only: ${[name, ...allowed].join(", ")}`,
      severity: "error",
      from: { path: inside(name) },
      to: { path: "^src/", pathNot: [name, ...allowed].map(inside) },
    })),
    { name: "no-cycle", severity: "error", from: {}, to: { circular: true } },
    { name: "no-orphan-layer", severity: "error", from: { path: "^src/[^/]+\\.ts$" }, to: {} },
    { name: "src-not-to-test", severity: "error", from: { path: "^src/" }, to: { path: "^(test|netns|scripts)/" } },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
  },
};
