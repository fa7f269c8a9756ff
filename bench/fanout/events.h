/* The load client's state, and what it makes of bytes: frames, events in them, their order and latency. See load.c. */
#pragma once
#include "common.h"

#include <stdbool.h>
#include <unistd.h>

enum state { CONNECTING, HANDSHAKE, OPEN, CLOSED };
enum kind { NORMAL, STALLED, SLOW };
enum { READ_MOST = 1 << 18, SLOW_BYTES = 4096, LOOK = 1024, LINE_MOST = 200 };

struct client {
  int fd;
  uint8_t state, kind;
  bool late; /* --until is reached */
  char *part; /* the beginning of a frame whose rest is still to come */
  uint32_t held, room;
  uint64_t skip, body; /* bytes left of a frame (--count, --nats), of a NATS message */
  char line[LINE_MOST]; /* the beginning of a NATS line */
  uint32_t line_held;
  int64_t order;
  uint64_t events;
};

struct lines { char **at; int count; };

static const char *host = "127.0.0.1", *path = "/", *first, *order_key = "\"seq\":", *stamp_key, *nats, *header, *protocol;
static struct lines paths, firsts;
static int port, wanted = 1, connecting = 64, stalled, slow;
static double window_s = 3, warm_s = 1, idle_s, settle_s, limit_s = 120;
static int64_t until = -1, from = -1;
static bool has_from, count_only, sparse;
static const uint64_t *acks;
static size_t acks_count;

static struct client *clients;
static int poll_fd, begun, opening, opened, refused, closed, close_code, reached, pause_us;
static uint64_t first_event, frames, events, bytes, reads, out_of_order, gaps, unnumbered, unstamped, slow_events;
static bool measuring;
static char *buffer;
static size_t buffer_size = READ_MOST * 2;

struct seen { int64_t order; uint64_t at; };
static struct seen *seen;
static uint32_t *latency; /* in units of 100 ns */
static size_t samples, samples_room;

/* ---- events */

static const char *number_after(const char *at, const char *end, const char *key, int64_t *number) {
  size_t length = strlen(key), look = (size_t)(end - at) < LOOK ? (size_t)(end - at) : LOOK;
  const char *found = memmem(at, look, key, length);
  if (!found) return NULL;
  found += length;
  while (found < end && *found == ' ') found++;
  if (found == end || *found < '0' || *found > '9') return NULL;
  for (*number = 0; found < end && *found >= '0' && *found <= '9'; found++) *number = *number * 10 + (*found - '0');
  return found;
}

static void sample(int64_t order, int64_t stamp, uint64_t now) {
  if (samples == samples_room) {
    samples_room = samples_room ? samples_room * 2 : 1 << 20;
    if (acks) seen = grown(seen, samples_room * sizeof *seen);
    latency = grown(latency, samples_room * sizeof *latency);
  }
  uint64_t taken = (uint64_t)stamp < now ? (now - (uint64_t)stamp) / 100 : 0;
  if (acks) seen[samples] = (struct seen){order, now};
  latency[samples++] = taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
}

static void one_event(struct client *c, const char *at, const char *end, uint64_t now) {
  int64_t order = -1, stamp = 0;
  if (!first_event) first_event = now;
  c->events++;
  if (c->kind != NORMAL) slow_events++;
  bool counts = measuring && c->kind == NORMAL;
  if (counts) events++;
  if (count_only) return;
  if (!number_after(at, end, order_key, &order)) {
    unnumbered++;
    return;
  }
  if (c->order >= 0 || has_from) {
    if (order <= c->order) out_of_order++;
    else if (!sparse) gaps += (uint64_t)(order - c->order - 1);
  }
  c->order = order;
  if (until >= 0 && order >= until && !c->late) {
    c->late = true;
    reached++;
  }
  if (!counts || (!acks && !stamp_key)) return;
  if (!acks && !number_after(at, end, stamp_key, &stamp)) unstamped++;
  else sample(order, stamp, now);
}

static void text_frame(struct client *c, const char *at, const char *end, uint64_t now) {
  if (measuring) frames++;
  if (at == end || *at != '[') {
    one_event(c, at, end, now);
    return;
  }
  const char *start = NULL;
  int depth = 0;
  for (bool quoted = false; at < end; at++) {
    if (quoted) {
      if (*at == '\\') at++;
      else if (*at == '"') quoted = false;
    } else if (*at == '"') {
      quoted = true;
    } else if (*at == '{' || *at == '[') {
      if (++depth == 2) start = at;
    } else if ((*at == '}' || *at == ']') && --depth == 1) {
      one_event(c, start, at + 1, now);
    }
  }
}

static void send_frame(struct client *c, int opcode, const char *text, size_t size) { /* masked with zeros */
  char out[4200];
  size_t head = 0;
  if (size > 4096) return;
  out[head++] = (char)(0x80 | opcode);
  if (size < 126) {
    out[head++] = (char)(0x80 | size);
  } else {
    out[head++] = (char)(0x80 | 126);
    out[head++] = (char)(size >> 8);
    out[head++] = (char)size;
  }
  memset(out + head, 0, 4);
  memcpy(out + head + 4, text, size);
  if (write(c->fd, out, head + 4 + size) < 0) return; /* closed: the next read says so */
}

static void nats_bytes(struct client *c, const char *at, const char *end, uint64_t now) {
  while (at < end) {
    if (c->body) {
      uint64_t step = (uint64_t)(end - at) < c->body ? (uint64_t)(end - at) : c->body;
      c->body -= step;
      at += step;
      continue;
    }
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t size = (size_t)((stop ? stop : end) - at);
    if (c->line_held + size > LINE_MOST) size = LINE_MOST - c->line_held; /* INFO is longer: its end does not matter */
    memcpy(c->line + c->line_held, at, size);
    c->line_held += (uint32_t)size;
    if (!stop) return;
    if (c->line_held > 4 && !memcmp(c->line, "MSG ", 4)) {
      int last = (int)c->line_held - 1;
      c->line[last] = 0; /* the \r */
      while (c->line[last - 1] != ' ') last--;
      c->body = strtoull(c->line + last, NULL, 10) + 2;
      one_event(c, c->line, c->line, now);
    } else if (!memcmp(c->line, "PING", 4)) {
      send_frame(c, 2, "PONG\r\n", 6);
    } else if (!memcmp(c->line, "-ERR", 4)) {
      fprintf(stderr, "nats: %.*s\n", (int)c->line_held, c->line);
    }
    c->line_held = 0;
    at = stop + 1;
  }
}

/* Whole frames from `at`; returns where the first that is not whole begins. */
static char *read_frames(struct client *c, char *at, char *end, uint64_t now) {
  for (;;) {
    if (c->skip) {
      uint64_t step = (uint64_t)(end - at) < c->skip ? (uint64_t)(end - at) : c->skip;
      if (nats) nats_bytes(c, at, at + step, now);
      c->skip -= step;
      at += step;
    }
    if (end - at < 2) return at;
    const unsigned char *head = (unsigned char *)at;
    uint64_t size = head[1] & 127;
    int length = size == 126 ? 4 : size == 127 ? 10 : 2;
    if (end - at < length) return at;
    if (length > 2) size = 0;
    for (int i = 2; i < length; i++) size = size << 8 | head[i];
    int opcode = head[0] & 15;
    if (opcode < 8 && (count_only || nats)) {
      if (count_only && !nats) one_event(c, at, at, now);
      if (measuring) frames++;
      c->skip = size;
      at += length;
      continue;
    }
    if ((uint64_t)(end - at) < (uint64_t)length + size) return at;
    char *text = at + length;
    if (opcode < 8) text_frame(c, text, text + size, now);
    else if (opcode == 9) send_frame(c, 10, text, size);
    else if (opcode == 8 && size >= 2) close_code = (unsigned char)text[0] << 8 | (unsigned char)text[1];
    at = text + size;
  }
}
