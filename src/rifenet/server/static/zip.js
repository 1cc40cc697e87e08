// A zip archive of files as they are: photos and PNGs are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** A zip of [path, Blob] pairs. */
export async function zip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const [path, blob] of files) {
    const name = new TextEncoder().encode(path), content = new Uint8Array(await blob.arrayBuffer());
    const facts = [0x0800, 0, 0, 0x21, crc32(content), content.length, content.length, name.length, 0]; // UTF-8 name; 1 January 1980
    const local = record(0x04034b50, [20], facts);
    parts.push(local, name, content);
    directory.push(record(0x02014b50, [20, 20], facts, [0, 0, 0], [0, offset]), name);
    offset += local.length + name.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  [[0, 0x06054b50], [12, size], [16, offset]].forEach(([at, value]) => end.setUint32(at, value, true));
  [8, 10].forEach((at) => end.setUint16(at, files.length, true));
  return new Blob([...parts, ...directory, end.buffer], { type: "application/zip" });
}

/** A header: signature, 16-bit versions, facts, then for the directory 16-bit and 32-bit fields. */
function record(signature, versions, facts, words = [], longs = []) {
  const [flags, method, time, date, crc, packed, size, name, extra] = facts;
  const fields = [[signature, 4], ...versions.map((value) => [value, 2]), [flags, 2], [method, 2], [time, 2], [date, 2],
    [crc, 4], [packed, 4], [size, 4], [name, 2], [extra, 2], ...words.map((value) => [value, 2]), ...longs.map((value) => [value, 4])];
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, field) => sum + field[1], 0)));
  let at = 0;
  for (const [value, bytes] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += bytes;
  }
  return new Uint8Array(view.buffer);
}
