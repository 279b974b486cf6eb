#!/usr/bin/env bash
# Validates a built glm on a machine with a GPU that has no Rust: kernels, layers, conversations,
# and one full-size model with random weights. CONTRIBUTING.md says how to get the files there.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: tests/gpu.sh [OPTION VALUE]...
  --glm FILE          the program                      (target/release/glm)
  --parity FILE       test binary `parity`             (none: that step is skipped)
  --references FOLDER reference checkpoints, a folder each (.oracles)
  --flash FOLDER      with config.json of GLM-4.7-Flash (REFERENCES/GLM-4.7-Flash)
  --devices LIST      what to run on                   (cuda,vulkan)
  --skip LIST         steps to leave out: devices, parity, golden, transcripts, flash
  --keep FOLDER       where outputs and logs go        (a temporary folder)
Exit code: 0 when nothing failed, 1 when a step did, 2 for wrong usage.
TEXT
}

glm=target/release/glm parity='' references=.oracles flash='' devices=cuda,vulkan skip='' keep=''
while [ $# -gt 0 ]; do
  case "$1" in
    --glm | --parity | --references | --flash | --devices | --skip | --keep)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
flash=${flash:-$references/GLM-4.7-Flash}
[ -x "$glm" ] || { echo "gpu.sh: $glm: no program there" >&2; exit 2; }
[ -n "$keep" ] || { keep=$(mktemp -d); trap 'rm -rf "$keep"' EXIT; }
mkdir -p "$keep"
here=$(dirname "$0")
export HF_HUB_OFFLINE=1

rows=() failed=0
# report RESULT STEP DEVICE [DETAIL]: a row of the table, printed at once as well.
report() {
  local row
  row=$(printf '%-5s %-34s %-8s %s' "$1" "$2" "$3" "${4:-}")
  rows+=("$row")
  printf '%s\n' "$row"
  [ "$1" != FAIL ] || failed=1
}

# attempt STEP DEVICE COMMAND...: PASS or FAIL by the exit code, with the last line as detail. A
# command that prints `skipped: …` has not shown anything.
attempt() {
  local step=$1 device=$2 log code
  shift 2
  log="$keep/$step.$device.log"
  log=${log// /-}
  "$@" >"$log" 2>&1
  code=$?
  if [ $code -ne 0 ]; then
    report FAIL "$step" "$device" "exit code $code: $(tail -n 1 "$log")"
    tail -n 15 "$log" | sed 's/^/      | /'
  elif grep -q '^skipped: ' "$log"; then
    report SKIP "$step" "$device" "$(grep -m 1 '^skipped: ' "$log")"
  else
    report PASS "$step" "$device" "$(tail -n 1 "$log")"
  fi
}

wanted() {
  case ",$skip," in *",$1,"*) report SKIP "$1" - "--skip"; return 1 ;; esac
}

needs_python() {
  command -v python3 >/dev/null || { report SKIP "$1" - "no python3"; return 1; }
}

# golden DEVICE CHECKPOINT DTYPE NUMERICS: logits, layers and drafts against the recorded ones.
golden() {
  local device=$1 name=$2 dtype=$3 numerics=$4 folder="$references/$2" out length mtp
  for length in 1 7 64; do
    out="$keep/$name.$device.$dtype.$numerics.$length"
    # The recorded drafts start from the prompt of 64 tokens.
    if [ $length = 64 ]; then mtp=--mtp; else mtp=''; fi
    python3 "$here/gpu_compare.py" ids "$folder/golden.safetensors" "prompt$length.ids" "$out.json" &&
      "$glm" inspect "$folder" --backend "$device" --dtype "$dtype" --fp8 "$numerics" \
        --logits "$out.json" --out "$out.safetensors" --trace $mtp || return 1
  done
  python3 "$here/gpu_compare.py" golden "$folder/golden.safetensors" \
    "$keep/$name.$device.$dtype.$numerics" "$dtype" "$numerics"
}

# full_size DEVICE ARGUMENTS...: GLM-4.7-Flash with random weights: loads, answers, stays finite.
full_size() {
  local device=$1 out="$keep/flash.json"
  shift
  "$glm" run -m "$flash" --backend "$device" --load-format dummy --raw --greedy --json \
    --max-tokens 64 "$@" "The quick brown fox jumps over the lazy dog" >"$out" || return 1
  python3 "$here/gpu_compare.py" speed "$out"
}

# measured WHAT DEVICE ARGUMENTS...: the table of a benchmark of GLM-4.7-Flash with random weights.
measured() {
  local what=$1 device=$2 out="$keep/flash.$1.$2.txt"
  shift 2
  "$glm" bench "$what" "$flash" --backend "$device" --load-format dummy --dtype bf16 \
    --drafts 0 "$@" >"$out" || return 1
  cat "$out"
}

if wanted devices; then
  attempt devices - "$glm" devices
  cat "$keep/devices.-.log"
fi

IFS=, read -r -a device_list <<<"$devices"
for device in "${device_list[@]}"; do
  if wanted parity; then
    if [ -x "$parity" ]; then
      attempt parity "$device" env GLM_TEST_DEVICE="$device" "$parity" --nocapture
    else
      report SKIP parity "$device" "no test binary: --parity"
    fi
  fi
  if wanted golden && needs_python golden; then
    for name in air-tiny m355-tiny lite-tiny air-tiny-fp8 m355-tiny-fp8; do
      if [ ! -f "$references/$name/golden.safetensors" ]; then
        report SKIP "golden $name" "$device" "not in $references"
        continue
      fi
      attempt "golden $name f32" "$device" golden "$device" "$name" f32 w8a16
      case "$name" in
        *-fp8) attempt "golden $name f32 w8a8" "$device" golden "$device" "$name" f32 w8a8 ;;
        *) attempt "golden $name bf16" "$device" golden "$device" "$name" bf16 w8a16 ;;
      esac
    done
  fi
  if wanted transcripts && needs_python transcripts; then
    for case in "glm-tiny f32 w8a16 fp32" "glm-tiny bf16 w8a16 fp32" \
      "glm-tiny-fp8 f32 w8a16 weight_only" "glm-tiny-fp8 f32 w8a8 w8a8"; do
      read -r name dtype numerics recorded <<<"$case"
      if [ ! -f "$references/$name/transcripts.json" ]; then
        report SKIP "transcripts $name" "$device" "not in $references"
        continue
      fi
      attempt "transcripts $name $dtype $numerics" "$device" \
        python3 "$here/gpu_compare.py" transcripts "$references/$name" "$recorded" -- \
        "$glm" run -m "$references/$name" --backend "$device" --dtype "$dtype" --fp8 "$numerics"
    done
  fi
  if wanted flash && needs_python flash; then
    if [ -f "$flash/config.json" ]; then
      attempt "flash bf16" "$device" full_size "$device" --dtype bf16
      attempt "flash fp8" "$device" full_size "$device" --dtype bf16 --quant fp8
      attempt "flash bench latency" "$device" measured latency "$device" --depth 0,4096
      attempt "flash bench sweep" "$device" measured sweep "$device" --streams 1,8,32
    else
      report SKIP flash "$device" "no config.json in $flash"
    fi
  fi
done

printf '\n%-5s %-34s %-8s %s\n' RESULT STEP DEVICE DETAIL
printf '%s\n' "${rows[@]}"
passed=$(printf '%s\n' "${rows[@]}" | grep -c '^PASS')
if [ "$passed" = 0 ]; then
  echo "nothing passed: nothing was shown"
  failed=1
fi
exit $failed
