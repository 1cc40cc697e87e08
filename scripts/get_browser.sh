#!/bin/sh
# Chromium for the tests of the page: installed where this is Debian and we are root, left alone where there is one.
# Without it these tests are skipped, and pytest's last line says so.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "Installing Chromium for the tests of the page"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "No Chromium here, and it cannot be installed: the tests of the page will be skipped. On Debian: apt-get install chromium" >&2
