// What survives a reload: photos, labels and classes, in this browser's IndexedDB.

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("rifenet", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("photos", { keyPath: "id" });
    request.result.createObjectStore("facts");
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const WAIT = 1000; // ms in which a page that is just closing releases the lock

/** Takes the store for this tab: whether no other tab has it, which would overwrite what this one writes, and be overwritten. */
export function claim() {
  return navigator.locks ? claimLock() : claimByAsking(); // locks are only for https and this machine
}

function claimLock() {
  return new Promise((resolve) => {
    const hold = () => {
      resolve(true);
      return new Promise(() => {}); // until the page is left
    };
    navigator.locks.request("rifenet", { signal: AbortSignal.timeout(WAIT) }, hold).catch(async (error) => {
      if (error.name !== "TimeoutError") return resolve(true);
      resolve((await isHeld()) && (await pause(WAIT), await isHeld()) ? false : claimLock()); // a busy browser may only have been slow
    });
  });
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Whether a tab has the lock. A slow browser may give it to a request that has just timed out, and then takes it back. */
const isHeld = async () => (await navigator.locks.query()).held.some((lock) => lock.name === "rifenet");

function claimByAsking() {
  const channel = new BroadcastChannel("rifenet"), own = Math.random();
  return new Promise((resolve) => {
    let held = false;
    channel.onmessage = ({ data }) => {
      if (data.asks !== undefined && (held || own < data.asks)) channel.postMessage({ held: true });
      if (data.held && !held) {
        channel.close();
        resolve(false);
      }
    };
    channel.postMessage({ asks: own });
    setTimeout(() => resolve((held = true)), WAIT / 2);
  });
}

function done(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

async function write(store, change) {
  const transaction = (await opened).transaction(store, "readwrite");
  change(transaction.objectStore(store));
  await done(transaction);
}

export const savePhoto = (photo) => write("photos", (store) => store.put(photo));
export const removePhoto = (id) => write("photos", (store) => store.delete(id));
export const saveFacts = (facts) => write("facts", (store) => store.put(facts, "project"));

export async function clear() {
  await write("photos", (store) => store.clear());
  await write("facts", (store) => store.clear());
}

export async function load() {
  const transaction = (await opened).transaction(["photos", "facts"]);
  const photos = transaction.objectStore("photos").getAll(), facts = transaction.objectStore("facts").get("project");
  await done(transaction);
  return { photos: photos.result, facts: facts.result };
}
