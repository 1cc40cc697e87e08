// Learned classes as the server's file holds them (safetensors; `Segmenter.save_classes` writes the same).

/** [{ name, shots, shift, fit, shapes, context: { name: { dtype, shape, bytes } }, arrays: the fit's, alike }], and the model's hash. */
export function readClasses(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: told, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const header = JSON.parse(told["rifenet-classes"]);
  const classes = header.classes.map((name, index) => ({
    name,
    shots: header.shots[index],
    shift: header.shifts[index],
    fit: header.fits?.[index] ?? null,
    shapes: header.shapes[index].map(([area, solidity]) => ({ area, solidity })),
    context: {},
    arrays: {},
  }));
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    const [index, first, second] = name.split("."), part = { dtype, shape, bytes: buffer.slice(8 + length + from, 8 + length + to) };
    if (second === undefined) classes[index].context[first] = part;
    else classes[index].arrays[second] = part;
  }
  return { hash: header.model_hash, classes };
}
