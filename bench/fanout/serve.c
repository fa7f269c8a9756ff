/* The plain server: what the machine gives when nothing but writing is done. Build: cc -O2 -o serve serve.c
 *
 *   serve CLIENTS BURST SIZE [SECONDS]
 *
 * Listens on a free port of 127.0.0.1 and prints it. Takes CLIENTS WebSocket clients (fewer and it only waits), then sends all of
 * them the same text frames for ever: BURST prebuilt frames of SIZE bytes of JSON, with "seq" and "t", in one send() per client.
 * A full socket is waited for. With BURST 0 it sends nothing. Ends when a client leaves, on SIGTERM, or after SECONDS (120).
 */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- SHA-1 of a short text (RFC 3174) and base64: the handshake's answer */

static uint32_t rotated(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void sha1_block(uint32_t *state, const unsigned char *block) {
  uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
  for (int i = 0; i < 16; i++)
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
  for (int i = 16; i < 80; i++) w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  for (int i = 0; i < 80; i++) {
    uint32_t mixed = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999u
                   : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1u
                   : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDCu
                            : (b ^ c ^ d) + 0xCA62C1D6u;
    uint32_t next = rotated(a, 5) + mixed + e + w[i];
    e = d, d = c, c = rotated(b, 30), b = a, a = next;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void sha1(const char *text, size_t size, unsigned char *digest) {
  uint32_t state[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
  unsigned char padded[256] = {0};
  size_t total = (size + 8) / 64 * 64 + 64;
  memcpy(padded, text, size);
  padded[size] = 0x80;
  for (int i = 0; i < 4; i++) padded[total - 1 - (size_t)i] = (unsigned char)(size * 8 >> (8 * i));
  for (size_t at = 0; at < total; at += 64) sha1_block(state, padded + at);
  for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64_of_20(const unsigned char *bytes, char *text) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int i = 0; i < 21; i += 3) {
    unsigned three = (unsigned)bytes[i] << 16 | (unsigned)bytes[i + 1] << 8 | (i + 2 < 20 ? bytes[i + 2] : 0u);
    for (int k = 0; k < 4; k++) *text++ = letters[three >> (18 - 6 * k) & 63];
  }
  text[-1] = '=';
  *text = 0;
}

/* ---- clients */

static int *clients, taken;

static int answer(int fd) { /* whether the handshake is done; a request that comes in pieces is no client of ours */
  char request[4096], key[160], accept[32];
  unsigned char digest[21];
  ssize_t size = recv(fd, request, sizeof request - 1, 0);
  if (size <= 0) return 0;
  request[size] = 0;
  char *found = strcasestr(request, "sec-websocket-key:");
  if (!found) return 0;
  found += 18 + strspn(found + 18, " ");
  size_t length = strcspn(found, "\r");
  if (length > 64) return 0;
  int total = snprintf(key, sizeof key, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", (int)length, found);
  sha1(key, (size_t)total, digest);
  base64_of_20(digest, accept);
  total = snprintf(request, sizeof request,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                   accept);
  return write(fd, request, (size_t)total) == total;
}

static void take_clients(int listener, int wanted) {
  int on = 1, poller = epoll_create1(0);
  struct epoll_event wish = {.events = EPOLLIN, .data.fd = listener}, found[256];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wish);
  while (taken < wanted) {
    int count = epoll_wait(poller, found, 256, -1);
    for (int i = 0; i < count; i++) {
      int fd = found[i].data.fd;
      if (fd == listener) {
        for (int fresh; (fresh = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
          setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
          wish = (struct epoll_event){.events = EPOLLIN, .data.fd = fresh};
          epoll_ctl(poller, EPOLL_CTL_ADD, fresh, &wish);
        }
        continue;
      }
      epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
      if (answer(fd)) clients[taken++] = fd;
      else close(fd);
    }
  }
}

static size_t frame(char *at, int size, uint64_t number) {
  char text[65536];
  int used = snprintf(text, sizeof text, "{\"seq\":%llu,\"type\":\"job.progress\",\"t\":%llu,\"pad\":\"", (unsigned long long)number,
                      (unsigned long long)now_ns());
  if (used < size - 2) memset(text + used, 'x', (size_t)(size - 2 - used)), used = size - 2;
  text[used++] = '"';
  text[used++] = '}';
  size_t head = used < 126 ? 2 : 4;
  at[0] = (char)0x81;
  at[1] = (char)(used < 126 ? used : 126);
  if (head == 4) at[2] = (char)(used >> 8), at[3] = (char)used;
  memcpy(at + head, text, (size_t)used);
  return head + (size_t)used;
}

static void send_all(const char *data, size_t size) {
  for (int i = 0; i < taken; i++) {
    for (size_t done = 0; done < size;) {
      ssize_t sent = send(clients[i], data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) {
        done += (size_t)sent;
      } else if (errno == EAGAIN) {
        struct pollfd room = {clients[i], POLLOUT, 0};
        poll(&room, 1, 1000);
      } else {
        exit(0); /* a client left: the measurement is over */
      }
    }
  }
}

int main(int count, char **values) {
  if (count < 4) return 4;
  int wanted = atoi(values[1]), burst = atoi(values[2]), size = atoi(values[3]), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  raise_file_limit();
  alarm(count > 4 ? (unsigned)atoi(values[4]) : 120);
  clients = calloc((size_t)wanted, sizeof *clients);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)) fail("listen");
  getsockname(listener, (struct sockaddr *)&address, &length);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  take_clients(listener, wanted);
  if (!burst)
    for (;;) pause();
  char *data = malloc((size_t)burst * ((size_t)size + 256));
  for (uint64_t number = 1;;) {
    size_t used = 0;
    for (int i = 0; i < burst; i++) used += frame(data + used, size, number++);
    send_all(data, used);
  }
}
