#!/bin/sh
# A display without a screen, and what Qt needs on it, for the tests of the napari plugin: installed where this is Debian
# and we are root, left alone where they are there. Without them these tests are skipped, and say so.
LIBRARIES="libegl1 libgl1 libgl1-mesa-dri libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4
  libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xfixes0 libxcb-xinerama0 libxcb-xkb1"
missing=""
command -v Xvfb >/dev/null 2>&1 || missing="xvfb"
if command -v dpkg >/dev/null 2>&1; then
  for name in $LIBRARIES; do
    dpkg -s "$name" >/dev/null 2>&1 || missing="$missing $name"
  done
fi
[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "Installing a display for the tests of napari:$missing"
  # shellcheck disable=SC2086
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "No display for the tests of napari, and it cannot be installed. On Debian: apt-get install $missing" >&2
