// Results to look through: in which order, which of them, and what comes next.

import { classOf, isBlank, photosOf } from "./project.js";

const SURE = 0.3; // least distance of a confidence from one half
const GOOD = 0.7; // least quality

export const ORDERS = { worst: "Least sure first", best: "Surest first", added: "As added" };
export const FILTERS = {
  all: { name: "All", fits: () => true },
  open: { name: "To look at", fits: (photo) => !photo.accepted },
  doubtful: { name: "Doubtful", fits: (photo) => isDoubtful(photo) },
  absent: { name: "Nothing found", fits: (photo) => isBlank(photo) },
  corrected: { name: "Corrected", fits: (photo) => isCorrected(photo) },
  accepted: { name: "Accepted", fits: (photo) => photo.accepted },
};

export const view = { order: "worst", filter: "all" };

/** Queries that were segmented or painted. */
export const results = () => photosOf("query").filter((photo) => photo.result || !isBlank(photo));

/** Those that the filter shows, in its order. */
export function listed() {
  const fits = results().filter(FILTERS[view.filter].fits);
  if (view.order === "added") return fits;
  const sign = view.order === "worst" ? 1 : -1, rated = fits.map((photo) => [rating(photo), photo]);
  return rated.sort(([a], [b]) => sign * (a - b)).map(([, photo]) => photo);
}

/**
 * How good a result is likely to be, 0 to 1: the least over its classes of the expected quality, or of how sure the model is
 * whether the class is there. It does not change while somebody corrects the photo, so that the order stays.
 */
export function rating({ result }) {
  const each = (result?.found ?? []).filter(({ id }) => classOf(id)).map(sureness);
  return each.length ? Math.min(...each) : 1;
}

const sureness = ({ present, confidence, quality }) => (present && quality !== null && quality !== undefined ? quality : Math.abs(confidence - 0.5) * 2);

/** Whether the model is not sure that a class is there, or of its mask. Confidences that are not calibrated only rank photos. */
export const isDoubtful = ({ result }) =>
  (result?.found ?? []).some((each) => classOf(each.id) && ((result.calibrated && Math.abs(each.confidence - 0.5) < SURE) || (each.present && (each.quality ?? 1) < GOOD)));

export const isCorrected = (photo) => !photo.result || photo.result.corrected;

/** The result so many places further in the list, from `photo`; null at its ends. */
export function neighbour(photo, by) {
  const all = listed(), index = all.indexOf(photo);
  return index < 0 ? all[0] ?? null : all[index + by] ?? null;
}

/** The next result that nobody has accepted, after `photo` in the list and then from its beginning; null where there is none. */
export function nextOpen(photo) {
  const all = listed(), index = all.indexOf(photo);
  const open = [...all.slice(index + 1), ...all.slice(0, Math.max(0, index)), ...results()];
  return open.find((each) => each !== photo && !each.accepted) ?? null;
}
