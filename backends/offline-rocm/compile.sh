#!/usr/bin/env bash
# Compiles the kernels of every op for AMD's GPUs, without a GPU, without ROCm and without root:
# through LLVM to code objects, and as HIP C++. Needs Debian's packages (apt-get, dpkg) of LLVM 22,
# a C++ compiler and Rust. Run by hand; the first run takes about a quarter of an hour.
#
# GLM_ROCM_INCLUDE may name the folder `include` of a ROCm: the C++ is then compiled with its
# headers, kernels with matrices too, and not with what stands in for them in `shim`.
#
# cubecl-llvm ships LLVM 23.1. What is built here is Debian's LLVM 22 in its place: of the same API,
# but it may choose other instructions, and fail on others, than what runs on a device.
set -euo pipefail
cd "$(dirname "$0")"
cache="${GLM_ROCM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glm-rocm}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/glm-rocm-target}"

# Where the build of cubecl-llvm looks for its LLVM; it goes with the version in Cargo.lock.
bundle="$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)"
root="$cache/root/usr"
llvm="$root/lib/llvm-22"
prefix="$cache/data/tracel/tracel-llvm-$bundle"
device_libs="$cache/bitcode"

step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

step "packages"
packages=(llvm-22 llvm-22-dev libllvm22 liblld-22 liblld-22-dev libpolly-22-dev libzstd-dev zlib1g-dev
  clang-22 libclang-common-22-dev libclang-cpp22 lld-22 rocm-device-libs)
if [ ! -e "$cache/unpacked" ]; then
  rm -rf "$cache/debs" "$cache/root"
  mkdir -p "$cache/debs"
  (cd "$cache/debs" && apt-get download -qq "${packages[@]}")
  for package in "$cache"/debs/*.deb; do dpkg -x "$package" "$cache/root"; done
  rm -r "$cache/debs"
  touch "$cache/unpacked"
fi
printf 'LLVM %s of Debian in the place of %s\n' "$("$llvm/bin/llvm-config" --version)" "$bundle"

step "what the build of cubecl-llvm takes for its LLVM"
for library in z zstd; do
  ln -sf "$root/lib/$(uname -m)-linux-gnu/lib$library.a" "$llvm/lib/lib$library.a"
done
mkdir -p "$prefix/bin"
# Debian's names z3 and xml2 too, which nothing here calls.
cat >"$prefix/bin/llvm-config" <<SCRIPT
#!/bin/sh
case "\$*" in
  *--system-libs*) echo "-lrt -ldl -lm -lz -lzstd" ;;
  *) exec "$llvm/bin/llvm-config" "\$@" ;;
esac
SCRIPT
chmod +x "$prefix/bin/llvm-config"
# A newer one would have it all built again.
[ -e "$prefix/.tracel-llvm-installed" ] || touch "$prefix/.tracel-llvm-installed"

step "device libraries"
# Debian's are of ROCm 5.2 and know neither architecture. A library of a version holds its number.
if [ ! -e "$device_libs/done" ]; then
  mkdir -p "$device_libs"
  bitcode="$(dirname "$(find "$root" -name ocml.bc | head -n 1)")"
  cp "$bitcode"/*.bc "$device_libs"
  for version in 942:9402 1100:11000; do
    "$llvm/bin/llvm-dis" -o - "$bitcode/oclc_isa_version_90a.bc" \
      | sed "s/i32 9010/i32 ${version#*:}/" \
      | "$llvm/bin/llvm-as" -o "$device_libs/oclc_isa_version_${version%:*}.bc"
  done
  touch "$device_libs/done"
fi

step "build"
# The versions of the workspace; what it does not have is added.
cp ../../Cargo.lock Cargo.lock
XDG_DATA_HOME="$cache/data" cargo build

step "compile"
out="$cache/kernels"
mkdir -p "$out"
CUBECL_ROCM_DEVICE_LIB_PATH="$device_libs" \
  "$CARGO_TARGET_DIR/debug/glm-offline-rocm" "$out" "$llvm/bin/clang" "${GLM_ROCM_INCLUDE:-shim}" \
  "$device_libs"
step "done: code objects, sources and logs are in $out"
