#!/usr/bin/env bash
# Runs publication-audit with the action's inputs, which are variables.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# In a job with a container the checkout belongs to another user, and git refuses to read it ("dubious ownership"). The
# script only reads from it. Not `git -c`, which git before 2.38 ignores for this setting.
printf '[safe]\n\tdirectory = *\n' >"$scratch/.gitconfig"
git() { HOME="$scratch" command git "$@"; }

arguments=()
while IFS= read -r host; do
    if [ -n "$host" ]; then arguments+=(--registry "$host"); fi
done <<<"${AUDIT_REGISTRY:-}"
if [ -n "${AUDIT_POLICY:-}" ]; then arguments+=(--policy "$AUDIT_POLICY"); fi
if [ -n "${AUDIT_TOKEN:-}" ]; then
    (umask 077 && printf '%s' "$AUDIT_TOKEN" >"$scratch/token")
    arguments+=(--token-file "$scratch/token")
fi

files=()
while IFS= read -r file; do
    if [ -n "$file" ]; then files+=("$file"); fi
done <<<"${AUDIT_FILES:-}"
if [ ${#files[@]} -eq 0 ]; then
    for file in package-lock.json npm-shrinkwrap.json pnpm-lock.yaml yarn.lock bun.lock; do
        if [ -e "$file" ]; then files+=("$file"); fi
    done
fi

if [ -n "${AUDIT_BASE:-}" ]; then
    if [ ${#files[@]} -ne 1 ]; then
        echo "::error title=publication-audit::base needs exactly one lockfile, found ${#files[@]}"
        exit 2
    fi
    # A missing revision must fail, because a comparison with the wrong base or with none proves nothing.
    if ! git rev-parse --verify --quiet "$AUDIT_BASE^{commit}" >/dev/null; then
        echo "::error title=publication-audit::the base revision is not in this clone; fetch it (fetch-depth: 0)"
        exit 2
    fi
    # If the base does not have the lockfile, all its packages are new.
    if git cat-file -e "$AUDIT_BASE:./${files[0]}" 2>/dev/null; then
        git show "$AUDIT_BASE:./${files[0]}" >"$scratch/base"
        arguments+=(--base "$scratch/base")
    fi
fi

code=0
# Not "${arguments[@]}" alone: bash before 4.4, which macOS has, takes an empty list for an unset variable.
audit() {
    publication-audit ${arguments[@]+"${arguments[@]}"} "$@" -- ${files[@]+"${files[@]}"}
}
audit --format github || code=$?
if [ -n "${AUDIT_SARIF:-}" ]; then
    # The same result for code scanning; it is written whatever the first run found.
    audit --format sarif --output "$AUDIT_SARIF" || true
fi
echo "exit-code=$code" >>"${GITHUB_OUTPUT:-/dev/null}"
if [ "$code" -eq 3 ]; then
    echo "::notice title=publication-audit::nothing to audit"
    exit 0
fi
exit "$code"
