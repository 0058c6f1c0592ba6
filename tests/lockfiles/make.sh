#!/usr/bin/env bash
# Makes the lockfiles of this folder again, by the real package managers from the npm registry.
# It needs node and npm, a network, and a folder for the tools and the sample project (default: a new one).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$(mktemp -d)}
tools=$work/tools

# tool NAME PACKAGE: installs a package manager under a name of its own.
tool() {
    [ -d "$tools/$1/node_modules" ] && return
    mkdir -p "$tools/$1"
    echo '{"private":true}' >"$tools/$1/package.json"
    (cd "$tools/$1" && npm install --no-audit --no-fund --loglevel=error "$2")
}

# project NAME: a fresh copy of the sample project, and the folder to work in.
project() {
    rm -rf "$work/$1"
    cp -R "$here/sample" "$work/$1"
    cd "$work/$1"
    git init --quiet .
    (cd packages/a && npm pack --silent >/dev/null && mv workspace-a-1.0.0.tgz ../../vendor.tgz)
    export HOME=$work/home
    mkdir -p "$HOME"
    rm -f "$HOME/.npmrc"
}

# keep FILE NAME: the lockfile of the present folder becomes NAME in this folder.
keep() { cp "$1" "$here/$2"; }

npm_lock() { # NAME PACKAGE ARGUMENTS…
    tool "$1" "$2"
    project "$1"
    "$tools/$1/node_modules/.bin/npm" install --package-lock-only --ignore-scripts --no-audit --no-fund "${@:4}"
    keep package-lock.json "$3"
}

npm_lock npm6 npm@6 npm-v1.package-lock.json
npm_lock npm8 npm@8 npm-v2.package-lock.json --lockfile-version=2
npm_lock npm11 npm@11 npm-v3.package-lock.json --lockfile-version=3
npm_lock npm12 npm@12 npm-v3-without-locations.package-lock.json --lockfile-version=3 --omit-lockfile-registry-resolved --allow-remote=all --allow-file=all --allow-directory=all
npm_lock npm11 npm@11 npm-v3-again.json
"$tools/npm11/node_modules/.bin/npm" sbom --sbom-format=cyclonedx --package-lock-only >"$here/npm.cdx.json"
"$tools/npm11/node_modules/.bin/npm" sbom --sbom-format=spdx --package-lock-only >"$here/npm.spdx.json"
rm "$here/npm-v3-again.json"

# The oldest pnpm do not run on a new node, the newest not on an old one.
for major in 16 24; do
    tool "node$major" "node@$major"
    [ -x "$tools/node$major/node_modules/node/bin/node" ] ||
        (cd "$tools/node$major/node_modules/node" && node installArchSpecificPackage.js)
done
for major in 7 8 9 10 11 12; do
    tool "pnpm$major" "pnpm@$major"
    project "pnpm$major"
    printf 'packages:\n  - packages/*\n' >pnpm-workspace.yaml
    if [ "$major" -ge 9 ]; then
        printf 'catalog:\n  picomatch: 2.3.1\npatchedDependencies:\n  ms@2.1.3: patches/ms.patch\n' >>pnpm-workspace.yaml
        node -e 'const p=require("./package.json");p.dependencies.picomatch="catalog:";if(process.argv[1]==9)p.pnpm={patchedDependencies:{"ms@2.1.3":"patches/ms.patch"}};require("fs").writeFileSync("package.json",JSON.stringify(p))' "$major"
        mkdir -p patches
        printf 'diff --git a/readme.md b/readme.md\nindex 0fc1abb..0fc1abc 100644\n--- a/readme.md\n+++ b/readme.md\n@@ -1,1 +1,1 @@\n-# ms\n+# milliseconds\n' >patches/ms.patch
    fi
    pnpm=$tools/pnpm$major/node_modules/.bin/pnpm
    case $major in
    7) node=$tools/node16/node_modules/node/bin ;;
    *) node=$tools/node24/node_modules/node/bin ;;
    esac
    PATH=$node:$PATH "$pnpm" install --lockfile-only --ignore-scripts --no-strict-peer-dependencies || true
    keep pnpm-lock.yaml "pnpm$major.pnpm-lock.yaml"
done

tool yarn1 yarn@1
project yarn1
"$tools/yarn1/node_modules/.bin/yarn" install --ignore-scripts --ignore-engines --ignore-platform --non-interactive || true
keep yarn.lock yarn1.yarn.lock
for major in 2 3 4; do
    tool "yarn$major" "@yarnpkg/cli-dist@$major"
    project "yarn$major"
    printf 'enableTelemetry: false\nenableImmutableInstalls: false\n' >.yarnrc.yml
    "$tools/yarn$major/node_modules/.bin/yarn" install --mode=update-lockfile ||
        "$tools/yarn$major/node_modules/.bin/yarn" install || true
    keep yarn.lock "yarn$major.yarn.lock"
done

for minor in 1.2 1.4; do
    tool "bun$minor" "bun@$minor"
    project "bun$minor"
    node -e 'const p=require("./package.json");p.workspaces={packages:p.workspaces,catalog:{picomatch:"2.3.1"}};p.dependencies.picomatch="catalog:";require("fs").writeFileSync("package.json",JSON.stringify(p))'
    bun=$tools/bun$minor/node_modules/.bin/bun
    "$bun" install --lockfile-only --save-text-lockfile
    keep bun.lock "bun$minor.bun.lock"
done
