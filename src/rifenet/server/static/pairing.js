// Which of the files that somebody drops are photos, which are existing masks, and which belong together: by their names.
//
// A file is { file, path }; a path has the folders that were dropped with it.

const MARKED = /[ _.-]+(masks?|labels?|labelme|seg|segmentation|gt|annotations?|coco)$/i; // dog_mask.png
const FOLDERS = /^(masks?|labels?|annotations?|gt|groundtruth|ground_truth|segmentations?|SegmentationClass|SegmentationObject)$/i;
const PICTURE = /\.(jpe?g|png|webp|bmp|gif|tiff?|avif)$/i, LOSSLESS = /\.(png|bmp|gif|tiff?)$/i;

const base = (path) => path.split(/[/\\]/).pop().normalize("NFC");
const withoutEnding = (path) => base(path).replace(/\.[^.]*$/, "");
/** What a photo and its mask have in common. */
export const stemOf = (path) => withoutEnding(path).replace(MARKED, "").toLowerCase();
const isTold = (path) => MARKED.test(withoutEnding(path)) || path.split(/[/\\]/).slice(0, -1).some((folder) => FOLDERS.test(folder));

/**
 * { photos: [file], masks: [{ file, stem }], jsons: [file] }. A picture is a mask where its name or folder says so, or where it
 * has the name of another one, of `known` names too, and is the one of both that lost nothing. The same name with the same
 * ending is the photo once more.
 */
export function sorted(files, known = []) {
  const jsons = files.filter(({ path }) => /\.json$/i.test(path)).map(({ file }) => file);
  const pictures = files.filter(({ path }) => !/\.json$/i.test(path)), groups = Map.groupBy?.(pictures, ({ path }) => stemOf(path)) ?? grouped(pictures);
  const there = new Set(known.map(stemOf)), again = new Set(known.map(base)), photos = [], masks = [];
  for (const [stem, group] of groups) {
    const told = group.filter(({ path }) => isTold(path)), rest = group.filter(({ path }) => !isTold(path));
    const lossless = rest.filter(({ path }) => LOSSLESS.test(path)), lossy = rest.filter(({ path }) => PICTURE.test(path) && !LOSSLESS.test(path));
    const isPair = !told.length && lossless.length === 1 && (lossy.length === 1 || (!lossy.length && there.has(stem) && !again.has(base(lossless[0].path))));
    for (const each of group) {
      if (told.includes(each) || (isPair && lossless.includes(each))) masks.push({ file: each.file, stem });
      else photos.push(each.file);
    }
  }
  return { photos, masks, jsons };
}

function grouped(files) {
  const groups = new Map();
  for (const each of files) groups.set(stemOf(each.path), [...(groups.get(stemOf(each.path)) ?? []), each]);
  return groups;
}

/** Files of a drop or a paste, those in dropped folders too. The entries must be taken before anything is waited for. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry) {
  if (!entry.isDirectory) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return PICTURE.test(file.name) || /\.json$/i.test(file.name) ? [{ file, path: entry.fullPath }] : []; // no .DS_Store
  }
  const reader = entry.createReader(), inside = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(walk))).flat();
}
