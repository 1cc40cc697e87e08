#!/bin/sh
# ONNX Runtime Web into a folder, for `rifenet serve --in-browser` and its tests: the three files that the page loads, and the
# package's own description with its licence (MIT). npm fetches it; what comes must have the digest below.
set -e
version=1.30.0
digest=d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71
folder=${1:-build/onnxruntime-web}
[ -f "$folder/package.json" ] && grep -q "\"version\": \"$version\"" "$folder/package.json" && exit 0
if ! command -v npm >/dev/null 2>&1; then
  echo "No npm here, which would fetch ONNX Runtime Web $version: photos cannot be segmented in the browser, and the tests of it will be skipped. On Debian: apt-get install npm" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "Fetching ONNX Runtime Web $version"
(cd "$work" && npm pack --silent "onnxruntime-web@$version" >/dev/null)
found=$( (sha256sum "$work"/*.tgz 2>/dev/null || shasum -a 256 "$work"/*.tgz) | cut -d ' ' -f 1)
if [ "$found" != "$digest" ]; then
  echo "Expected ONNX Runtime Web $version with the SHA-256 $digest, but got $found. Nothing was installed." >&2
  exit 1
fi
tar -xzf "$work"/*.tgz -C "$work"
mkdir -p "$folder"
for name in ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm; do
  cp "$work/package/dist/$name" "$folder/$name"
done
cp "$work/package/package.json" "$folder/package.json" # last: it says that the folder is complete
