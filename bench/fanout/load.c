/* A WebSocket load client: one thread, epoll, no memory per message. Build: cc -O2 -o load load.c
 *
 * Opens --clients connections (--connecting handshakes at once), reads what the server sends and counts it; prints one line
 * of JSON and ends with status 0. Another status means that nothing was measured: 2 the system refused, 3 time was up,
 * 4 the arguments are wrong.
 *
 *   connecting → handshake → open ──server closes──▶ closed
 *
 * When it ends
 *   --window S   after --warm S from the first event, S seconds are measured (default)
 *   --idle S     everybody is open, S seconds later
 *   --until N    every client has read an event with order number >= N
 *   --limit S    in any case (status 3)
 *
 * What an event is: a text frame, or each element of a JSON array in one (aura.v1), or with --nats SUBJECT a MSG of the NATS
 * protocol inside the frames. Events are checked for order: the number after --order KEY (default "seq":) must rise by one per
 * client (not with --sparse: then it must rise). --from N is the number before the first. --count checks and times nothing.
 *
 * Latency: the number after --stamp KEY is nanoseconds of CLOCK_MONOTONIC; or --acks FILE, a file of 64-bit numbers, native
 * order, that the publisher maps too: at index "order number" the moment it was acknowledged, 0 = not to be measured. It is read
 * at the end, --settle S after the window. An event read before its acknowledgement counts as 0.
 *
 * --paths FILE, --firsts FILE: one path or first message per line; client i takes line i modulo their number.
 * --pause N: sleep N microseconds before each look, so that the server does not pay for waking us with every write (clients of a real
 * server are on other machines); adds as much latency.
 * --stalled K: the first K clients never read after the handshake. --slow K: the next K read 4 KiB a second. Neither is measured.
 * --pid P: processor time and memory of a server process.
 */
#include "cost.h"
#include "events.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- connections */

static void begin(int index) {
  struct client *c = &clients[index];
  int on = 1;
  struct linger at_once = {1, 0}; /* no TIME_WAIT: ports are few */
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) fail("socket");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  inet_pton(AF_INET, host, &address.sin_addr);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) fail("connect");
  c->kind = index < stalled ? STALLED : index < stalled + slow ? SLOW : NORMAL;
  c->order = has_from ? from : -1;
  opening++;
  struct epoll_event wish = {.events = EPOLLOUT, .data.u32 = (uint32_t)index};
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &wish);
}

static const char *of(const struct lines *list, const char *otherwise, int index) {
  return list->count ? list->at[index % list->count] : otherwise;
}

static void ask(int index) {
  struct client *c = &clients[index];
  char out[4096];
  int size = snprintf(out, sizeof out,
                      "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: YXVyYS1iZW5jaC1mYW5vdQ==\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s%s\r\n",
                      of(&paths, path, index), host, port, protocol ? "Sec-WebSocket-Protocol: " : "", protocol ? protocol : "",
                      protocol ? "\r\n" : "", header ? header : "", header ? "\r\n" : "");
  if (size >= (int)sizeof out || write(c->fd, out, (size_t)size) != size) fail("handshake");
  c->state = HANDSHAKE;
  struct epoll_event wish = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
  epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &wish);
}

static void lose(struct client *c) {
  if (c->state == OPEN) closed++;
  else refused++, opening--;
  close(c->fd);
  c->state = CLOSED;
}

static char *handshake(struct client *c, int index, char *at, char *end) {
  char *blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
  if (!blank) return at;
  if (strncmp(at, "HTTP/1.1 101", 12)) {
    if (!refused) fprintf(stderr, "refused: %.*s\n", (int)(end - at < 400 ? end - at : 400), at);
    lose(c);
    return at;
  }
  c->state = OPEN;
  opened++;
  opening--;
  const char *message = of(&firsts, first, index);
  char hello[512];
  if (nats) {
    int size = snprintf(hello, sizeof hello, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB %s 1\r\nPUB fan.here 0\r\n\r\n", nats);
    send_frame(c, 2, hello, (size_t)size);
  } else if (message) {
    send_frame(c, 1, message, strlen(message));
  }
  if (c->kind != NORMAL) epoll_ctl(poll_fd, EPOLL_CTL_DEL, c->fd, NULL);
  return blank + 4;
}

static void take(int index) {
  struct client *c = &clients[index];
  if (c->held + (size_t)READ_MOST > buffer_size) buffer = grown(buffer, buffer_size = c->held * 2 + (size_t)READ_MOST);
  ssize_t got = recv(c->fd, buffer + c->held, c->kind == SLOW ? SLOW_BYTES : READ_MOST, MSG_DONTWAIT);
  if (got <= 0) {
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) lose(c);
    return;
  }
  uint64_t now = now_ns();
  reads++;
  if (measuring) bytes += (uint64_t)got;
  memcpy(buffer, c->part, c->held);
  char *at = buffer, *end = buffer + c->held + got;
  if (c->state == HANDSHAKE) at = handshake(c, index, at, end);
  if (c->state == OPEN) at = read_frames(c, at, end, now);
  c->held = (uint32_t)(end - at);
  if (c->held > c->room) c->part = grown(c->part, c->room = c->held + 256);
  memcpy(c->part, at, c->held);
}

static void turn(int wait_ms) {
  static struct epoll_event found[1024];
  static uint64_t next_slow;
  while (begun < wanted && opening < connecting) begin(begun++);
  if (pause_us && begun == wanted && !opening) usleep((useconds_t)pause_us);
  int count = epoll_wait(poll_fd, found, 1024, wait_ms);
  for (int i = 0; i < count; i++) {
    int index = (int)found[i].data.u32;
    struct client *c = &clients[index];
    int error = 0;
    socklen_t size = sizeof error;
    if (c->state == CONNECTING && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && !error) ask(index);
    else if (c->state == CONNECTING) lose(c);
    else if (c->state != CLOSED) take(index);
  }
  if (slow && now_ns() > next_slow) {
    next_slow = now_ns() + 1000000000u;
    for (int i = stalled; i < stalled + slow; i++)
      if (clients[i].state == OPEN) take(i);
  }
}

static void turns(double seconds) {
  for (uint64_t end = now_ns() + (uint64_t)(seconds * 1e9); now_ns() < end;) turn(20);
}

/* ---- the report */

static int by_size(const void *a, const void *b) {
  uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
  return left < right ? -1 : left > right;
}

static double percentile_ms(double share) {
  size_t rank = (size_t)(share * (double)samples + 0.999999);
  return samples ? latency[rank ? rank - 1 : 0] / 1e4 : 0;
}

static void latencies(void) {
  size_t kept = 0;
  for (size_t i = 0; acks && i < samples; i++) {
    uint64_t acked = (size_t)seen[i].order < acks_count ? __atomic_load_n(&acks[seen[i].order], __ATOMIC_ACQUIRE) : 0;
    if (!acked) continue;
    uint64_t taken = acked < seen[i].at ? (seen[i].at - acked) / 100 : 0;
    latency[kept++] = taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
  }
  if (acks) samples = kept;
  if (samples) qsort(latency, samples, sizeof *latency, by_size);
}

static struct lines lines_of(const char *name) {
  struct lines list = {0};
  FILE *text = fopen(name, "r");
  char *line = NULL;
  size_t room = 0;
  if (!text) fail(name);
  for (ssize_t size; (size = getline(&line, &room, text)) > 0;) {
    if (line[size - 1] == '\n') line[size - 1] = 0;
    list.at = grown(list.at, (size_t)(list.count + 1) * sizeof *list.at);
    list.at[list.count++] = strdup(line);
  }
  fclose(text);
  return list;
}

static void map_acks(const char *name) {
  struct stat about;
  int fd = open(name, O_RDONLY);
  if (fd < 0 || fstat(fd, &about) < 0) fail(name);
  acks = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (acks == MAP_FAILED) fail(name);
  acks_count = (size_t)about.st_size / sizeof *acks;
}

static void arguments(int count, char **values) {
  static const struct option known[] = {
      {"host", 1, 0, 'h'},     {"port", 1, 0, 'p'},    {"path", 1, 0, 'u'},    {"paths", 1, 0, 'U'},  {"first", 1, 0, 'm'},
      {"firsts", 1, 0, 'M'},   {"clients", 1, 0, 'n'}, {"window", 1, 0, 'd'},  {"warm", 1, 0, 'w'},   {"idle", 1, 0, 'i'},
      {"until", 1, 0, 'N'},    {"limit", 1, 0, 'l'},   {"settle", 1, 0, 'e'},  {"order", 1, 0, 'o'},  {"from", 1, 0, 'f'},
      {"stamp", 1, 0, 't'},    {"acks", 1, 0, 'a'},    {"stalled", 1, 0, 'k'}, {"slow", 1, 0, 's'},   {"pid", 1, 0, 'P'},
      {"connecting", 1, 0, 'c'}, {"nats", 1, 0, 'S'},  {"header", 1, 0, 'H'},  {"protocol", 1, 0, 'r'}, {"count", 0, 0, 'F'},
      {"sparse", 0, 0, 'g'},   {"pause", 1, 0, 'z'},   {0}};
  for (int option; (option = getopt_long(count, values, "", known, NULL)) != -1;) switch (option) {
      case 'h': host = optarg; break;
      case 'p': port = atoi(optarg); break;
      case 'u': path = optarg; break;
      case 'U': paths = lines_of(optarg); break;
      case 'm': first = optarg; break;
      case 'M': firsts = lines_of(optarg); break;
      case 'n': wanted = atoi(optarg); break;
      case 'd': window_s = atof(optarg); break;
      case 'w': warm_s = atof(optarg); break;
      case 'i': idle_s = atof(optarg); break;
      case 'N': until = atoll(optarg); break;
      case 'l': limit_s = atof(optarg); break;
      case 'e': settle_s = atof(optarg); break;
      case 'o': order_key = optarg; break;
      case 'f': from = atoll(optarg), has_from = true; break;
      case 't': stamp_key = optarg; break;
      case 'a': map_acks(optarg); break;
      case 'k': stalled = atoi(optarg); break;
      case 's': slow = atoi(optarg); break;
      case 'P': pid = atoi(optarg); break;
      case 'c': connecting = atoi(optarg); break;
      case 'S': nats = optarg; break;
      case 'H': header = optarg; break;
      case 'r': protocol = optarg; break;
      case 'F': count_only = true; break;
      case 'g': sparse = true; break;
      case 'z': pause_us = atoi(optarg); break;
      default: exit(4);
    }
  if (!port || wanted < 1) exit(4);
}

static void out_of_time(int signal_number) {
  (void)signal_number;
  static const char said[] = "load: time is up\n";
  if (write(2, said, sizeof said - 1) < 0) _exit(3);
  _exit(3);
}

int main(int count, char **values) {
  arguments(count, values);
  raise_file_limit();
  signal(SIGPIPE, SIG_IGN);
  signal(SIGALRM, out_of_time);
  alarm((unsigned)limit_s + 1);
  buffer = grown(NULL, buffer_size);
  clients = calloc((size_t)wanted, sizeof *clients);
  poll_fd = epoll_create1(EPOLL_CLOEXEC);

  long memory_before = resident_kib();
  double cpu_before = cpu_s();
  uint64_t began = now_ns();
  while (opened + refused < wanted) {
    turn(20);
    if (refused && !(idle_s > 0)) exit(3); /* the first refusal is on stderr */
  }
  double open_s = (double)(now_ns() - began) / 1e9, open_cpu = cpu_s() - cpu_before;
  double reached_s = 0, cpu = 0, queued = 0, own = 0, measured_s = 0;
  if (until >= 0) {
    while (reached + refused + closed + stalled + slow < wanted) turn(20);
    reached_s = (double)(now_ns() - began) / 1e9;
  } else if (idle_s > 0) {
    turns(idle_s);
  } else {
    while (!first_event) turn(20);
    turns(warm_s);
    cpu_before = cpu_s();
    queued = queued_s;
    double own_before = own_cpu_s();
    uint64_t start = now_ns();
    measuring = true;
    turns(window_s);
    measuring = false;
    measured_s = (double)(now_ns() - start) / 1e9;
    cpu = cpu_s() - cpu_before;
    queued = queued_s - queued;
    own = own_cpu_s() - own_before;
    if (settle_s > 0) turns(settle_s);
  }
  long memory_after = resident_kib();
  latencies();
  uint64_t least = UINT64_MAX, most = 0;
  for (int i = stalled + slow; i < wanted; i++) {
    if (clients[i].events < least) least = clients[i].events;
    if (clients[i].events > most) most = clients[i].events;
  }
  printf("{\"clients\":%d,\"opened\":%d,\"refused\":%d,\"closed\":%d,\"close_code\":%d,\"open_s\":%.4f,\"open_cpu_s\":%.4f,"
         "\"memory_before_kib\":%ld,\"memory_after_kib\":%ld,\"reached\":%d,\"reached_s\":%.4f,",
         wanted, opened, refused, closed, close_code, open_s, open_cpu, memory_before, memory_after, reached, reached_s);
  printf("\"seconds\":%.4f,\"frames\":%llu,\"events\":%llu,\"bytes\":%llu,\"cpu_s\":%.4f,\"queued_s\":%.4f,\"own_cpu_s\":%.4f,",
         measured_s, (unsigned long long)frames, (unsigned long long)events, (unsigned long long)bytes, cpu, queued, own);
  printf("\"out_of_order\":%llu,\"gaps\":%llu,\"unnumbered\":%llu,\"unstamped\":%llu,\"slow_events\":%llu,\"least\":%llu,"
         "\"most\":%llu,\"reads\":%llu,",
         (unsigned long long)out_of_order, (unsigned long long)gaps, (unsigned long long)unnumbered, (unsigned long long)unstamped,
         (unsigned long long)slow_events, (unsigned long long)least, (unsigned long long)most, (unsigned long long)reads);
  printf("\"samples\":%zu,\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f}\n", samples,
         percentile_ms(0.5), percentile_ms(0.9), percentile_ms(0.99), percentile_ms(0.999), percentile_ms(1));
  return 0;
}
