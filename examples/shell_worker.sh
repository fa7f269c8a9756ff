#!/bin/sh
# A whole worker with nothing but curl and jq: takes jobs of a pool, one at a time, and counts the words of {"text": "…"}.
#   AURA_URL=http://127.0.0.1:8000 sh examples/shell_worker.sh wordcount
set -eu
url=${AURA_URL:-http://127.0.0.1:8000}
pool=${1:-wordcount}
me=shell-$$

post() { curl -fsS -X POST -H 'Content-Type: application/json' -d "$2" "$url$1"; }

post "/models/$pool/heartbeat" "{\"worker_id\":\"$me\",\"status\":\"ok\",\"roles\":[\"WordCount\"]}" >/dev/null
echo "waiting for jobs of pool $pool at $url" >&2
while :; do
    job=$(post "/models/$pool/next" "{\"worker_id\":\"$me\",\"wait_s\":30}") || { sleep 1; continue; }
    if [ -z "$job" ]; then # 204: nothing came within wait_s; say that we are still here
        post "/models/$pool/heartbeat" "{\"worker_id\":\"$me\",\"status\":\"ok\",\"roles\":[\"WordCount\"]}" >/dev/null
        continue
    fi
    id=$(printf '%s' "$job" | jq -r .job_id) # not echo: some shells turn the \\n of a payload into a line
    attempt=$(printf '%s' "$job" | jq -r .attempt)
    words=$(printf '%s' "$job" | jq -r '.payload.text? // ""' | wc -w | tr -d ' ')
    # A refusal (cancelled meanwhile, lease lost) ends this job, not the worker.
    post "/jobs/$id/stream" "{\"chunk\":\"$words words\\n\",\"final\":true,\"attempt\":$attempt}" >/dev/null || continue
    post "/jobs/$id/complete" "{\"success\":true,\"details\":{\"words\":$words},\"attempt\":$attempt}" >/dev/null || continue
    echo "$id: $words words" >&2
done
