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
