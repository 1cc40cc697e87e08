// The model's graphs on ONNX Runtime Web: encodes a photo, and decodes one class of it.

const OPTIONS = {
  executionProviders: ["wasm"],
  graphOptimizationLevel: "all",
  // As on the server: the fused kernel of a sum and a layer norm is slower than the two separate ones.
  extra: { optimization: { disable_specified_optimizers: "SkipLayerNormFusion" } },
};
const ARRAYS = { F32: [Float32Array, "float32"], BOOL: [Uint8Array, "bool"], U8: [Uint8Array, "uint8"], I64: [BigInt64Array, "int64"], I32: [Int32Array, "int32"] };

export class Network {
  /** `card` is what `rifenet.json` says, `graphs` has the bytes of `encode_query` and `decode`, `ort` is the runtime. */
  static async open(ort, card, graphs) {
    const network = new Network();
    Object.assign(network, { ort, card, size: card.image_size, threshold: card.mask_threshold });
    network.query = await ort.InferenceSession.create(graphs.encode_query, OPTIONS);
    network.decoder = await ort.InferenceSession.create(graphs.decode, OPTIONS);
    return network;
  }

  /** Features of one image: name -> tensor. `images` is [3,S,S], `valid` [S,S]. */
  async encode({ images, valid }) {
    const { Tensor } = this.ort, side = this.size;
    const given = { images: new Tensor("float32", images, [1, 3, side, side]), image_valid: new Tensor("bool", valid, [1, side, side]) };
    const found = await this.query.run(wanted(this.query, given));
    return Object.fromEntries(this.card.features.map((name, index) => [name, found[this.query.outputNames[index]]]));
  }

  /** Foreground minus background logit, on the grid of the graph's output: { width, height, data }. */
  async decode(features, context) {
    const { logits } = await this.decoder.run(wanted(this.decoder, { ...features, ...context }));
    const [, , height, width] = logits.dims, plane = width * height, data = new Float32Array(plane);
    for (let i = 0; i < plane; i++) data[i] = logits.data[plane + i] - logits.data[i];
    return { width, height, data };
  }

  /** A tensor of a file of learned classes. */
  tensor({ dtype, shape, bytes }) {
    const [Kind, type] = ARRAYS[dtype];
    return new this.ort.Tensor(type, new Kind(bytes), shape);
  }
}

/** A graph has inputs only for the fields that it reads. */
const wanted = (session, given) => Object.fromEntries(session.inputNames.map((name) => [name, given[name]]));
