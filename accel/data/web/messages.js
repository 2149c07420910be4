// Messages between accel and this page: see accel/core/browser/messages.py for the layout.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
  bool: Uint8Array, float16: globalThis.Float16Array ?? Uint16Array,
};

// The JSON object of a message; `fill` gives its tensors their data.
export function unpack(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
}

export function fill(head, buffer) {
  let at = 4 + new DataView(buffer).getUint32(0, true);
  for (const tensor of head.tensors) {
    const array = ARRAYS[tensor.dtype];
    if (!array) throw new Error(`tensors of type ${tensor.dtype} cannot be sent to a browser`);
    const count = tensor.shape.reduce((a, b) => a * b, 1);
    tensor.data = new array(buffer, at, count);
    at += Math.ceil(tensor.data.byteLength / 8) * 8;
  }
}

// tensors: [{name, dtype, shape, data}] with typed arrays as data
export function pack(head, tensors = []) {
  const listed = tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  let text = new TextEncoder().encode(JSON.stringify({ ...head, tensors: listed }));
  const padded = Math.ceil((4 + text.length) / 8) * 8;
  const total = tensors.reduce((sum, t) => sum + Math.ceil(t.data.byteLength / 8) * 8, padded);
  const bytes = new Uint8Array(total);
  new DataView(bytes.buffer).setUint32(0, padded - 4, true);
  bytes.fill(32, 4, padded);
  bytes.set(text, 4);
  let at = padded;
  for (const { data } of tensors) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += Math.ceil(data.byteLength / 8) * 8;
  }
  return bytes;
}
