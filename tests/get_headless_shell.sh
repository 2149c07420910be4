#!/bin/sh
# Gets the headless shell of Chromium that has WebNN, for the tests in browsers, and prints the path of its program.
#
#   tests/get_headless_shell.sh
#
# It comes from the npm package @sparticuz/chromium, whose scripts are not run; its archives are packed with brotli, which
# Node.js unpacks. Without the software renderer beside it the shell has neither WebGPU nor WebNN.
set -eu

version=147.0.0
integrity=4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ==
folder="${XDG_CACHE_HOME:-$HOME/.cache}/ipfs-accel/headless-shell-$version"

if [ -x "$folder/chromium" ]; then
    echo "$folder/chromium"
    exit 0
fi
command -v npm >/dev/null && command -v node >/dev/null || {
    echo "Node.js with npm is not installed, so the headless shell cannot be fetched" >&2
    exit 1
}
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack "@sparticuz/chromium@$version" --ignore-scripts --silent >/dev/null
node - "$integrity" <<'JS'
const { createHash } = require("crypto");
const { readFileSync } = require("fs");
const found = createHash("sha512").update(readFileSync("sparticuz-chromium-147.0.0.tgz")).digest("base64");
if (found !== process.argv[2]) throw new Error(`the package has another hash: ${found}`);
JS
tar xzf sparticuz-chromium-*.tgz
mkdir ready
node -e '
const { brotliDecompressSync } = require("zlib");
const { readFileSync, writeFileSync } = require("fs");
const unpack = (from, to, mode) => writeFileSync(to, brotliDecompressSync(readFileSync(`package/bin/${from}`)), { mode });
unpack("chromium.br", "ready/chromium", 0o755);
unpack("swiftshader.tar.br", "swiftshader.tar", 0o644);
'
tar xf swiftshader.tar -C ready
mv ready "$folder" 2>/dev/null || [ -x "$folder/chromium" ]
echo "$folder/chromium"
