#!/usr/bin/env bash
# Validates and measures a built glm on a machine with a GPU that has no Rust: devices, kernels,
# recorded checkpoints, conversations, and full-size models with random weights, each beside what
# the device allows. Bash and the program suffice. CONTRIBUTING.md says how to get the files there.
set -uo pipefail

usage() {
  cat <<'TEXT'
usage: benches/gpu/validate.sh [OPTION]...
  --glm FILE          the program                  (beside this script, or target/release/glm)
  --fixtures LIST     folders of checkpoints with golden.safetensors, separated by commas
                                                   (tests/fixtures)
  --devices LIST      what to run on; the first one is measured
                                                   (cuda and vulkan, where there is such a GPU)
  --python FILE       a Python with torch and transformers, to measure beside       (python3)
  --out FOLDER        where results go             (validation)
  --only PATTERN      only steps whose name matches, as in 'golden-*'
  --redo              take these steps again, though they have a result
  --minutes N         begin no step after N minutes; the same command goes on from there
  --limit SECONDS     end a step that takes longer, as failed                          (900)
  --smoke             a small model and the CPU, to try this script
  --list              print the names of the steps
Each step leaves OUT/steps/NAME.json; a step that has one is not taken again. The tables are printed
and lie in OUT/report.md, everything together in OUT/report.json.
Exit code: 0 when nothing failed, 1 when a step did or none passed, 2 for wrong usage.
TEXT
}

wrong() { echo "validate.sh: $1" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
glm='' fixtures=$root/tests/fixtures devices='' python=python3 out=validation only='*'
redo='' minutes='' limit=900 smoke='' list=''
while [ $# -gt 0 ]; do
  case "$1" in
    --glm | --fixtures | --devices | --python | --out | --only | --minutes | --limit)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --redo | --smoke | --list) printf -v "${1#--}" yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
for number in "${minutes:-0}" "$limit"; do
  [[ $number =~ ^[0-9]+$ ]] || wrong "\`$number\` is no whole number"
done
for candidate in "$here/glm" "$root/target/release/glm"; do
  if [ -z "$glm" ] && [ -x "$candidate" ]; then glm=$candidate; fi
done
if [ -z "$glm" ] || [ ! -x "$glm" ]; then wrong "no program ${glm:-here}: --glm FILE"; fi
mkdir -p "$out/steps" "$out/raw" "$out/logs" || exit 2
out=$(cd "$out" && pwd)
export HF_HUB_OFFLINE=1 NO_COLOR=1

# The GPUs that the program sees; software adapters are none.
gpus() {
  "$glm" devices 2>/dev/null | awk '$1 ~ /^(cuda|rocm|vulkan):0$/ && !/\(software\)/ {
    sub(":0", "", $1); list = list (list ? "," : "") $1 } END { print list }'
}
if [ -z "$devices" ]; then
  if [ "$smoke" ]; then devices=cpu; else devices=$(gpus); fi
fi
IFS=, read -r -a device_list <<<"$devices"
[ ${#device_list[@]} -gt 0 ] || wrong "the program sees no GPU here; \`$glm doctor\` says why"
measured=${device_list[0]}

# field KEY: its first value in JSON that is printed a key on a line.
field() { awk -v key="\"$1\":" '$1 == key && !done { sub(/,$/, "", $2); print $2; done = 1 }'; }

# A text as one JSON string.
quoted() { head -c 500 | tr '\000-\037' ' ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/ *$//; s/^/"/; s/$/"/'; }

# A command of a step, ended when it takes too long.
limited() {
  if command -v timeout >/dev/null; then timeout -k 10 "$limit" "$@"; else "$@"; fi
}

later=0
# step NAME DEVICE COMMAND...: takes a step unless it has a result. What the command prints is JSON;
# the last line on standard error says what it came to, and `skipped: …` that it showed nothing.
step() {
  local name=$1 device=$2 raw log code began=$SECONDS result detail
  shift 2
  # shellcheck disable=SC2053 # a pattern
  [[ $name == $only ]] || return 0
  if [ "$list" ]; then echo "$name"; return 0; fi
  if [ -f "$out/steps/$name.json" ] && [ -z "$redo" ]; then return 0; fi
  if [ -n "$minutes" ] && [ $SECONDS -ge $((minutes * 60)) ]; then
    later=$((later + 1))
    return 0
  fi
  raw=$out/raw/$name.json log=$out/logs/$name.log
  "$@" >"$raw" 2>"$log"
  code=$?
  detail=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)
  case $code in
    0) result=PASS; [[ $detail != skipped:* ]] || result=SKIP ;;
    124 | 137) result=FAIL detail="took longer than $limit s" ;;
    130) echo "interrupted" >&2; exit 130 ;;
    *) result=FAIL detail="exit code $code: $detail" ;;
  esac
  {
    printf '{"step": "%s", "device": "%s", "result": "%s", "seconds": %s, "detail": %s,\n"output": ' \
      "$name" "$device" "$result" $((SECONDS - began)) "$(quoted <<<"$detail")"
    if [ -s "$raw" ]; then cat "$raw"; else echo null; fi
    echo '}'
  } >"$out/steps/$name.json.part"
  mv "$out/steps/$name.json.part" "$out/steps/$name.json"
  printf '%s  %-46s %5ss  %s\n' "$result" "$name" $((SECONDS - began)) "$detail" >&2
}

nvidia() {
  command -v nvidia-smi >/dev/null || { echo "skipped: no nvidia-smi" >&2; return 0; }
  local keys=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit said
  said=$(limited nvidia-smi --query-gpu=$keys --format=csv,noheader) || return 1
  printf '{"keys": "%s", "gpus": %s}\n' $keys "$(tr '\n' ';' <<<"$said" | quoted)"
  echo "$said" >&2
}

parity() {
  local said code
  said=$(limited "$glm" doctor --backend "$1" --all --json)
  code=$?
  [ -z "$said" ] || printf '%s\n' "$said"
  [ $code -ne 0 ] || echo "$(field cases <<<"$said") of $(field all_cases <<<"$said") cases as on the CPU" >&2
  return $code
}

# golden DEVICE FOLDER ARGUMENTS...: logits, layers and drafts against the recorded ones.
golden() {
  local device=$1 folder=$2 said code
  shift 2
  said=$(limited "$glm" inspect "$folder" --golden "$folder/golden.safetensors" \
    --backend "$device" --json "$@")
  code=$?
  [ -z "$said" ] || printf '%s\n' "$said"
  [ $code -ne 0 ] || echo "$(field agree <<<"$said") of $(field values <<<"$said") values agree" >&2
  return $code
}

# tokens DEVICE QUESTION ARGUMENTS...: what the built-in model answers.
tokens() {
  local device=$1 question=$2
  shift 2
  limited "$glm" run --backend "$device" --dtype f32 --greedy --json "$@" "$question" \
    </dev/null 2>/dev/null | grep -o '"token_ids":\[[0-9,]*\]'
}

# Answers of the built-in model, token for token as on the CPU.
transcripts() {
  local device=$1 question want got equal=0 count=0
  local questions=("What is 7 + 5?" "What is 12 - 4?" "What is 9 + 8?" "Hello!"
    "What is the capital of France?" "What color is the sky?" "Tell me a story."
    "My name is Anna. What is my name?")
  for question in "${questions[@]}"; do
    want=$(tokens cpu "$question" --max-tokens 120)
    got=$(tokens "$device" "$question" --max-tokens 120)
    count=$((count + 1))
    if [ -n "$want" ] && [ "$want" = "$got" ]; then
      equal=$((equal + 1))
    else
      echo "differs: $question" >&2
    fi
  done
  printf '{"equal": %s, "of": %s}\n' $equal $count
  echo "$equal of $count conversations as on the CPU" >&2
  [ $equal = $count ]
}

# A thousand steps of the built-in model as recordings, and the same tokens without them.
replays() {
  local device=$1 said count reason want got
  said=$(limited "$glm" bench latency --backend "$device" --drafts 0 --prompt-tokens 16 \
    --output-tokens 1024 --repeat 1 --json) || return 1
  printf '%s\n' "$said"
  count=$(field replayed_steps <<<"$said")
  if [ "$count" = 0 ]; then
    reason=$(sed -n 's/.*"not_recorded": "\(.*\)".*/\1/p' <<<"$said")
    echo "skipped: no step was replayed on $device${reason:+: $reason}" >&2
    return 0
  fi
  # Tokens that end an answer are out of reach.
  local endless=(--logit-bias 1988=-1000 --logit-bias 1995=-1000 --logit-bias 1997=-1000)
  got=$(tokens "$device" "Tell me a story." --max-tokens 1024 --drafts 0 "${endless[@]}")
  want=$(tokens "$device" "Tell me a story." --max-tokens 1024 --drafts 0 "${endless[@]}" --no-graph)
  echo "$count steps replayed, tokens $([ "$got" = "$want" ] && echo as || echo not as) without" >&2
  [ -n "$want" ] && [ "$got" = "$want" ] && [ "$count" -ge 1000 ]
}

# bench WHAT CONFIG QUANT ARGUMENTS...: a model with random weights on the device that is measured.
bench() {
  local what=$1 config=$2 quant=$3
  shift 3
  limited "$glm" bench "$what" "$config" --backend "$measured" --load-format dummy \
    --dtype "$dtype" --quant "$quant" --drafts 0 --json "$@"
}

# sweep CONFIG QUANT DEPTH: several streams, those whose caches have room together.
sweep() {
  local fit
  fit=$(streams_that_fit "$@")
  [ -n "$fit" ] || { echo "skipped: no $streams streams of $3 tokens fit" >&2; return 0; }
  bench sweep "$1" "$2" --streams "$fit" --depth "$3" --prompt-tokens $page \
    --output-tokens $output --requests 1 --max-batch "${fit##*,}"
}

facts() { "$glm" inspect "$1" --load-format dummy --dtype "$dtype" --quant "$2" --json 2>/dev/null; }

streams_that_fit() {
  local said weights row count fit=''
  said=$(facts "$1" "$2")
  weights=$(field memory_to_load_bytes <<<"$said") row=$(field kv_bytes_per_token <<<"$said")
  for count in ${streams//,/ }; do
    if [ "$memory" = 0 ] ||
      [ $((count * ($3 + 4 * page) * row + weights)) -lt $((memory / 100 * 85)) ]; then
      fit=$fit${fit:+,}$count
    fi
  done
  echo "$fit"
}

reference() {
  if ! command -v "$python" >/dev/null; then echo "skipped: no $python" >&2; return; fi
  limited "$python" "$here/transformers_reference.py" "$@"
}

# Bytes of the device that is measured; 0 where it does not say.
device_bytes() {
  local bytes
  bytes=$("$glm" devices --json 2>/dev/null | awk -v device="\"${measured%%:*}\"," '
    $1 == "\"backend\":" { here = $2 == device }
    here && $1 == "\"memory_bytes\":" && !done { sub(/,$/, "", $2); print $2; done = 1 }')
  if [[ $bytes =~ ^[0-9]+$ ]]; then echo "$bytes"; else echo 0; fi
}

page=64
if [ "$smoke" ]; then
  dtype=f32 depths=0,64 streams=2 prompt=16 long_prompt=96 output=16
  models=glm4_moe_tiny:none
else
  dtype=bf16 depths=0,8192,32768 streams=8,32 prompt=512 long_prompt=8192 output=64
  models="GLM-4.7-Flash:none GLM-4.7-Flash:fp8 GLM-4.5-Air:fp8"
fi
config_of() {
  if [ "$smoke" ]; then echo "$root/tests/fixtures/$1/config.json"; else echo "$here/configs/$1.json"; fi
}
memory=$(device_bytes)

step devices - limited "$glm" devices --json
step doctor - limited "$glm" doctor --json
step nvidia-smi - nvidia
for device in "${device_list[@]}"; do
  step "parity-$device" "$device" parity "$device"
  fp8=''
  for folder in ${fixtures//,/ }; do
    for file in "$folder"/*/golden.safetensors; do
      [ -f "$file" ] || continue
      checkpoint=$(dirname "$file") name=$(basename "$(dirname "$file")")
      # On OpenGL there is f32 only.
      if grep -q quantization_config "$checkpoint/config.json"; then
        fp8=yes
        for numerics in w8a16 w8a8; do
          step "golden-$device-$name-$numerics" "$device" \
            golden "$device" "$checkpoint" --dtype f32 --fp8 $numerics
        done
      else
        for format in f32 bf16; do
          [ "$device-$format" != gl-bf16 ] || continue
          step "golden-$device-$name-$format" "$device" \
            golden "$device" "$checkpoint" --dtype $format
        done
      fi
    done
  done
  [ "$fp8" ] || step "golden-$device-fp8" "$device" \
    eval 'echo "skipped: no FP8 checkpoint in the folders of --fixtures" >&2'
  step "transcripts-$device" "$device" transcripts "$device"
  step "replays-$device" "$device" replays "$device"
done
for model in $models; do
  name=${model%:*} quant=${model#*:}
  config=$(config_of "$name") label=$measured-$name-$quant
  weights=$(facts "$config" "$quant" | field memory_to_load_bytes)
  if [ "$memory" != 0 ] && [ "${weights:-0}" -gt $((memory / 100 * 85)) ]; then
    step "bench-$label" "$measured" \
      eval 'echo "skipped: $weights bytes of weights in $memory bytes of memory" >&2'
    continue
  fi
  step "bench-$label-one" "$measured" bench latency "$config" "$quant" --depth "$depths" \
    --prompt-tokens $prompt --output-tokens $output --repeat 2
  step "bench-$label-prompt" "$measured" bench latency "$config" "$quant" \
    --prompt-tokens $long_prompt --output-tokens 2 --repeat 2
  for depth in ${depths//,/ }; do
    step "bench-$label-streams-$depth" "$measured" sweep "$config" "$quant" "$depth"
  done
  [ $quant != none ] || step "transformers-$name" "$measured" reference "$config" \
    --contexts "$depths" --batches "1,$streams" --prompts $prompt,$long_prompt --tokens $output
done
[ -z "$list" ] || exit 0

# speed NAME: rows of a benchmark as `model format what context streams rate share`.
speed() {
  local raw=$out/raw/bench-$measured-$1-$2-$3.json
  if [ -s "$raw" ]; then
    awk -v model="$1" -v format="$2" -v kind="$3" -v prompt="$4" '
      function row(what, context, streams, speed, share) {
        if (speed + 0 > 0) print model, format, what, context, streams, speed, share
      }
      { sub(/,$/, "", $2); value[$1] = $2 }
      $1 == "\"depth\":" && kind == "one" {
        row("decode", $2 + 0, 1, value["\"output_tokens_per_s\":"], value["\"bound_share\":"]) }
      $1 == "\"depth\":" && $2 + 0 == 0 {
        row("prefill", prompt, 1, value["\"prompt_tokens_per_s\":"], value["\"flop_share\":"]) }
      $1 == "\"streams\":" {
        row("decode", substr(kind, 9), $2 + 0, value["\"output_tokens_per_s\":"],
          value["\"bound_share\":"])
      }' "$raw"
  fi
}

speeds=$(
  for model in $models; do
    name=${model%:*} quant=${model#*:}
    speed "$name" "$quant" one $prompt
    speed "$name" "$quant" prompt $long_prompt
    for depth in ${depths//,/ }; do speed "$name" "$quant" "streams-$depth" 0; done
  done
)

# theirs MODEL WHAT CONTEXT STREAMS: tokens per second of transformers on the same shape.
theirs() {
  local raw=$out/raw/transformers-$1.json
  [ ! -s "$raw" ] || awk -v what="\"$2\"" -v context="$3" -v streams="$4" '
    { sub(/,$/, "", $2); value[$1] = $2 }
    $1 == "\"tokens_per_s\":" && value["\"what\":"] == what && value["\"streams\":"] == streams &&
      value["\"context\":"] == context && $2 != "null" { printf "%.1f", $2 }' "$raw"
}

report() {
  echo "# Validation of $("$glm" --version)"
  echo
  echo "| result | step | device | seconds | what it came to |"
  echo "|---|---|---|---|---|"
  local file
  for file in "$out"/steps/*.json; do
    [ -f "$file" ] || continue
    # All of a step but its output is on one line.
    head -n 1 "$file" | tr '|' '/' | sed -E \
      's/^\{"step": "(.*)", "device": "(.*)", "result": "(.*)", "seconds": (.*), "detail": "(.*)",$/| \3 | \1 | \2 | \4 | \5 |/'
  done
  [ -n "$speeds" ] || return 0
  echo
  echo "Random weights, tokens per second of all streams together. The bound is what a copy and a"
  echo "product of matrices on this device allow: for answers the bytes and operations of a step,"
  echo "for prompts the operations. FP8 is made of BF16 while loading."
  echo
  echo "| model | weights | what | context | streams | glm | bound | share | transformers, BF16 |"
  echo "|---|---|---|---|---|---|---|---|---|"
  local model format what context streams rate share
  while read -r model format what context streams rate share; do
    [ "$format" != none ] || format=$dtype
    awk -v speed="$rate" -v share="$share" \
      -v begin="| $model | $format | $what | $context | $streams" \
      -v theirs="$(theirs "$model" "$what" "$context" "$streams")" 'BEGIN {
        bound = share > 0 ? sprintf("%.1f", speed / share) : "?"
        printf "%s | %.1f | %s | %.1f %% | %s |\n", begin, speed, bound, 100 * share,
          theirs == "" ? "-" : theirs }'
  done <<<"$speeds"
}

report | tee "$out/report.md"
{
  printf '{"version": %s,\n"steps": [\n' "$("$glm" --version | quoted)"
  separator=''
  for file in "$out"/steps/*.json; do
    [ -f "$file" ] || continue
    printf '%s' "$separator"
    cat "$file"
    separator=','
  done
  printf '],\n"speed": ['
  separator=''
  while read -r model format what context count rate share; do
    [ -n "$model" ] || continue
    printf '%s\n{"model": "%s", "quant": "%s", "what": "%s", "context": %s, "streams": %s, "tokens_per_s": %s, "share_of_bound": %s}' \
      "$separator" "$model" "$format" "$what" "$context" "$count" "$rate" "$share"
    separator=','
  done <<<"$speeds"
  printf ']}\n'
} >"$out/report.json"
echo "in $out: report.md, report.json" >&2
[ $later = 0 ] || echo "$later steps are left: the same command goes on" >&2
if grep -q '"result": "FAIL"' "$out"/steps/*.json 2>/dev/null; then exit 1; fi
if [ $later = 0 ] && ! grep -q '"result": "PASS"' "$out"/steps/*.json 2>/dev/null; then
  echo "nothing passed: nothing was shown" >&2
  exit 1
fi
