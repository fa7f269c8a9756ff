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
    id=$(echo "$job" | jq -r .job_id)
    attempt=$(echo "$job" | jq -r .attempt)
    words=$(echo "$job" | jq -r '.payload.text // ""' | wc -w | tr -d ' ')
    post "/jobs/$id/stream" "{\"chunk\":\"$words words\\n\",\"final\":true,\"attempt\":$attempt}" >/dev/null
    post "/jobs/$id/complete" "{\"success\":true,\"details\":{\"words\":$words},\"attempt\":$attempt}" >/dev/null
    echo "$id: $words words" >&2
done
