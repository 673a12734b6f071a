/* Load for DHCP and TFTP servers: many clients in one process, one line of JSON about what they saw.
 *
 *   load dhcp --interface IF [--lease 1] [--clients N | --new 1] [--at-once N | --rate N] [--seconds S] [--count N] [--timeout S]
 *   load tftp --server ADDRESS --file NAME --content PATH [--clients N] [--blksize N] [--windowsize N] [--lose PERCENT] [--seconds S]
 *
 * Bounded in time (at most 60 s) and in the number of clients.  Everything received is checked: an answer that is not for
 * this client, or a file that differs by one byte, counts as a fault.  The C library is all that is needed: cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64       /* datagrams per system call */
#define SLOTS 65536    /* one per value of the low half of an xid */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- options: pairs of --name value ---- */

static int words;
static char **word;

static const char *text(const char *name, const char *otherwise) {
    for (int i = 2; i + 1 < words; i += 2)
        if (!strcmp(word[i], name)) return word[i + 1];
    return otherwise;
}

static double number(const char *name, double otherwise) {
    const char *value = text(name, NULL);
    return value ? atof(value) : otherwise;
}

static double seconds(void) {
    double asked = number("--seconds", 3);
    return asked > 60 ? 60 : asked;
}

/* ---- latencies: kept whole, sorted at the end ---- */

static float *sample;
static size_t samples, room;

static void took(double from) {
    if (samples == room) sample = realloc(sample, (room = room ? 2 * room : 65536) * sizeof *sample);
    if (!sample) fail("memory");
    sample[samples++] = (float)((now() - from) * 1e3);
}

static int ascending(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile(double share) { return samples ? sample[(size_t)(share * (double)(samples - 1))] : -1; }

static double chance(void) {
    static uint64_t state = 88172645463325252u; /* xorshift64: the same losses in every run */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

/* ---- DHCP ---- */

enum stage { FREE, DISCOVERED, REQUESTED };

struct exchange {
    enum stage stage;
    uint32_t xid, client;
    double started, deadline;
};

static struct exchange exchange[SLOTS];
static int dhcp_socket;
static uint64_t sent, refused;

static void mac_of(uint32_t client, uint8_t mac[6]) {
    mac[0] = 0x02, mac[1] = 0x50;
    client = htonl(client);
    memcpy(mac + 2, &client, 4);
}

static uint8_t *put(uint8_t *at, uint8_t code, uint8_t size, const void *value) {
    *at++ = code, *at++ = size;
    memcpy(at, value, size);
    return at + size;
}

/* What a BIOS network card sends (RFC 2131, PXE 2.1): broadcast flag, UUID, arch 0, and a long parameter request list. */
static void send_dhcp(struct exchange *x, uint8_t type, uint32_t yiaddr, uint32_t server) {
    static const uint8_t wanted[] = {1,  2,  3,  5,  6,  11, 12, 13, 15,  16,  17,  18,  43,  54,  60,  67,  128, 129,
                                     130, 131, 132, 133, 134, 135};
    static const char vendor[] = "PXEClient:Arch:00000:UNDI:002001";
    uint8_t packet[548] = {1, 1, 6}, *at = packet + 240, uuid[17] = {0};
    uint32_t xid = htonl(x->xid);
    memcpy(packet + 4, &xid, 4);
    packet[10] = 0x80;
    mac_of(x->client, packet + 28);
    memcpy(packet + 236, "\x63\x82\x53\x63", 4);
    memcpy(uuid + 11, packet + 28, 6);
    at = put(at, 53, 1, &type);
    if (yiaddr) at = put(at, 50, 4, &yiaddr);
    if (server) at = put(at, 54, 4, &server);
    at = put(at, 57, 2, "\x05\xc0");
    at = put(at, 55, sizeof wanted, wanted);
    at = put(at, 97, 17, uuid);
    at = put(at, 93, 2, "\0\0");
    at = put(at, 94, 3, "\1\2\1");
    at = put(at, 60, sizeof vendor - 1, vendor);
    *at = 255;
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(67), .sin_addr.s_addr = INADDR_BROADCAST};
    while (sendto(dhcp_socket, packet, sizeof packet, 0, (struct sockaddr *)&all, sizeof all) < 0) {
        if (errno != ENOBUFS && errno != EAGAIN) {
            refused++;
            return;
        }
        poll(&(struct pollfd){dhcp_socket, POLLOUT, 0}, 1, 1);
    }
    sent++;
}

static int dhcp(void) {
    const char *interface = text("--interface", "eth0");
    bool lease = number("--lease", 0) > 0, fresh = number("--new", 0) > 0;
    double rate = number("--rate", 0), timeout = number("--timeout", 1);
    uint32_t clients = (uint32_t)number("--clients", 200), at_once = rate > 0 ? SLOTS : (uint32_t)number("--at-once", 32);
    uint64_t limit = (uint64_t)number("--count", 1e9), begun = 0, done = 0, lost = 0, faults = 0;
    uint32_t first = (uint32_t)number("--first", 0x10000), turn = 0;
    if (!at_once || at_once > SLOTS || !clients) return fprintf(stderr, "load: --at-once and --clients are 1 to 65536\n"), 2;

    int on = 1, size = 8 << 20;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(68)};
    dhcp_socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (dhcp_socket < 0 || setsockopt(dhcp_socket, SOL_SOCKET, SO_BROADCAST, &on, sizeof on) ||
        setsockopt(dhcp_socket, SOL_SOCKET, SO_BINDTODEVICE, interface, (socklen_t)strlen(interface)) ||
        bind(dhcp_socket, (struct sockaddr *)&here, sizeof here))
        fail(interface);
    if (setsockopt(dhcp_socket, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size)) fail("receive buffer");
    prctl(PR_SET_TIMERSLACK, 1);

    static uint8_t space[BATCH][2048];
    struct iovec vector[BATCH];
    struct mmsghdr message[BATCH];
    for (int i = 0; i < BATCH; i++) {
        vector[i] = (struct iovec){space[i], sizeof space[i]};
        message[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &vector[i], .msg_iovlen = 1}};
    }
    double start = now(), end = start + seconds(), next = start, looked = start, last = start;
    uint16_t generation = (uint16_t)getpid();
    for (;;) {
        double time = now();
        bool over = time >= end || done >= limit;
        uint32_t busy = 0, from = 0, to = 0;
        if (rate > 0) {
            for (from = to = turn; !over && next <= time; next += 1 / rate) to++;
        } else if (time - looked > 0.01 || begun == 0 || timeout < 0.1) {
            looked = time, to = at_once;
        }
        for (uint32_t i = from; i < to; i++) { /* start exchanges that are due, or whose answer never came */
            struct exchange *x = &exchange[i % SLOTS];
            if (x->stage != FREE && x->deadline > time && rate <= 0) continue;
            if (x->stage != FREE) lost++, x->stage = FREE;
            if (over) continue;
            uint32_t client = first + (fresh ? turn : turn % clients);
            *x = (struct exchange){DISCOVERED, (uint32_t)generation++ << 16 | i % SLOTS, client, time, time + timeout};
            turn++, begun++;
            send_dhcp(x, 1, 0, 0);
        }
        if (over) {
            for (uint32_t i = 0; i < at_once; i++) busy += exchange[i].stage != FREE;
            if (!busy || time >= end + timeout) {
                lost += busy;
                break;
            }
        }
        double wait = rate > 0 && !over ? next - time : timeout;
        struct timespec rest = {0, wait > 0 ? (long)((wait < 0.01 ? wait : 0.01) * 1e9) : 0};
        if (ppoll(&(struct pollfd){dhcp_socket, POLLIN, 0}, 1, &rest, NULL) <= 0) continue;
        int received = recvmmsg(dhcp_socket, message, BATCH, MSG_DONTWAIT, NULL);
        for (int k = 0; k < received; k++) {
            uint8_t *packet = space[k], *option = packet + 240, *stop = packet + message[k].msg_len, mac[6], type = 0;
            if (message[k].msg_len < 244 || packet[0] != 2) continue;
            uint32_t xid, yiaddr, server = 0;
            memcpy(&xid, packet + 4, 4), memcpy(&yiaddr, packet + 16, 4);
            struct exchange *x = &exchange[ntohl(xid) % SLOTS];
            if (x->stage == FREE || x->xid != ntohl(xid)) continue; /* later than its time-out */
            while (option + 1 < stop && *option != 255) {
                if (*option == 0) {
                    option++;
                    continue;
                }
                if (option + 2 + option[1] > stop) break;
                if (*option == 53) type = option[2];
                if (*option == 54 && option[1] == 4) memcpy(&server, option + 2, 4);
                option += 2 + option[1];
            }
            mac_of(x->client, mac);
            if (memcmp(packet + 28, mac, 6) || !server || type != (x->stage == DISCOVERED ? 2 : 5) || (lease && !yiaddr)) {
                faults++, x->stage = FREE;
            } else if (lease && x->stage == DISCOVERED) {
                x->stage = REQUESTED;
                send_dhcp(x, 3, yiaddr, server);
                continue;
            } else {
                took(x->started);
                done++, last = now(), x->stage = FREE;
            }
            if (rate <= 0 && now() < end && done < limit) {
                uint32_t client = first + (fresh ? turn : turn % clients);
                *x = (struct exchange){DISCOVERED, (uint32_t)generation++ << 16 | ntohl(xid) % SLOTS, client, now(), now() + timeout};
                turn++, begun++;
                send_dhcp(x, 1, 0, 0);
            }
        }
    }
    qsort(sample, samples, sizeof *sample, ascending);
    double spent = rate > 0 ? seconds() : last - start;
    printf("{\"units\": %llu, \"seconds\": %.4f, \"lost\": %llu, \"faults\": %llu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"last\": %.6f}\n", (unsigned long long)done, spent > 0 ? spent : 1e-9, (unsigned long long)lost,
           (unsigned long long)(faults + refused), percentile(.5), percentile(.99), last);
    return 0;
}

/* ---- TFTP (RFC 1350, 2347, 2348, 7440) ---- */

struct transfer {
    int socket;
    bool answered, gap;
    uint64_t next;           /* the block that is wanted */
    uint32_t in_window, blksize, windowsize;
    struct sockaddr_in server;
    double started, deadline;
};

static const uint8_t *content;
static uint64_t content_size, payload, wrong, errors, files;
static struct sockaddr_in tftp_server;
static int tftp_events;

static void request(struct transfer *t) {
    uint8_t packet[512] = {0, 1};
    int size = 2;
    size += sprintf((char *)packet + size, "%s", text("--file", "")) + 1;
    size += sprintf((char *)packet + size, "octet") + 1;
    size += sprintf((char *)packet + size, "tsize%c0", 0) + 1;
    size += sprintf((char *)packet + size, "blksize%c%d", 0, (int)number("--blksize", 1468)) + 1;
    if (number("--windowsize", 1) > 1) size += sprintf((char *)packet + size, "windowsize%c%d", 0, (int)number("--windowsize", 1)) + 1;
    sendto(t->socket, packet, (size_t)size, 0, (struct sockaddr *)&tftp_server, sizeof tftp_server);
}

static void acknowledge(struct transfer *t, uint64_t block) {
    uint8_t packet[4] = {0, 4, (uint8_t)(block >> 8), (uint8_t)block};
    sendto(t->socket, packet, sizeof packet, 0, (struct sockaddr *)&t->server, sizeof t->server);
}

static void begin(struct transfer *t) {
    int size = 4 << 20;
    *t = (struct transfer){.socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), .next = 1, .blksize = 512, .windowsize = 1,
                           .server = tftp_server, .started = now(), .deadline = now() + 1};
    if (t->socket < 0 || setsockopt(t->socket, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size)) fail("socket");
    epoll_ctl(tftp_events, EPOLL_CTL_ADD, t->socket, &(struct epoll_event){.events = EPOLLIN, .data.ptr = t});
    request(t);
}

static void end(struct transfer *t, uint64_t *as) {
    (*as)++;
    if (as == &files) took(t->started);
    close(t->socket);
    t->socket = -1;
}

static void options(struct transfer *t, const char *at, const char *stop) {
    while (at < stop) {
        const char *value = at + strnlen(at, (size_t)(stop - at)) + 1;
        if (value >= stop) break;
        if (!strcasecmp(at, "blksize")) t->blksize = (uint32_t)atoi(value);
        if (!strcasecmp(at, "windowsize")) t->windowsize = (uint32_t)atoi(value);
        at = value + strnlen(value, (size_t)(stop - value)) + 1;
    }
}

static void received(struct transfer *t, const uint8_t *packet, ssize_t size, const struct sockaddr_in *from, double lose) {
    if (size < 4 || (t->answered && from->sin_port != t->server.sin_port)) return;
    t->server = *from, t->answered = true;
    if (packet[1] == 6) {
        if (t->next > 1) return;
        options(t, (const char *)packet + 2, (const char *)packet + size);
        t->deadline = now() + 1;
        acknowledge(t, 0);
    } else if (packet[1] != 3) {
        fprintf(stderr, "load: the server answered: %.*s\n", (int)size - 4, packet + 4);
        end(t, &errors);
    } else if (lose <= 0 || chance() >= lose) {
        uint16_t ahead = (uint16_t)((packet[2] << 8 | packet[3]) - (uint16_t)t->next);
        uint64_t offset = (t->next - 1) * t->blksize, length = (uint64_t)size - 4;
        if (ahead == 0) {
            if (length > t->blksize || offset + length > content_size || memcmp(packet + 4, content + offset, length)) return end(t, &wrong);
            payload += length, t->next++, t->in_window++, t->gap = false, t->deadline = now() + 1;
            bool last = length < t->blksize;
            if (last || t->in_window == t->windowsize) acknowledge(t, t->next - 1), t->in_window = 0;
            if (last) end(t, offset + length == content_size ? &files : &wrong);
        } else if (!t->gap && (ahead < 32768 || ahead == 65535)) { /* a block is missing, or the server did not hear us: say where we are, once */
            t->gap = ahead < 32768, t->in_window = 0;
            acknowledge(t, t->next - 1);
        }
    }
}

static int tftp(void) {
    int clients = (int)number("--clients", 1), file = open(text("--content", ""), O_RDONLY);
    double lose = number("--lose", 0) / 100;
    struct stat facts;
    if (clients < 1 || clients > 2000) return fprintf(stderr, "load: --clients is 1 to 2000\n"), 2;
    if (file < 0 || fstat(file, &facts)) fail(text("--content", "--content"));
    content_size = (uint64_t)facts.st_size;
    content = mmap(NULL, content_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (content == MAP_FAILED) fail("mmap");
    tftp_server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(69), .sin_addr.s_addr = inet_addr(text("--server", "127.0.0.1"))};
    tftp_events = epoll_create1(0);
    struct transfer *transfer = calloc((size_t)clients, sizeof *transfer);
    double start = now(), stop = start + seconds(), looked = start, retries = 0;
    for (int i = 0; i < clients; i++) begin(&transfer[i]);
    static uint8_t space[65536];
    while (now() < stop) {
        struct epoll_event event[BATCH];
        int ready = epoll_wait(tftp_events, event, BATCH, 5);
        for (int k = 0; k < ready; k++) {
            struct transfer *t = event[k].data.ptr;
            for (int turn = 0; turn < BATCH && t->socket >= 0; turn++) {
                struct sockaddr_in from;
                socklen_t length = sizeof from;
                ssize_t size = recvfrom(t->socket, space, sizeof space, 0, (struct sockaddr *)&from, &length);
                if (size < 0) break;
                received(t, space, size, &from, lose);
            }
            if (t->socket < 0) begin(t);
        }
        if (now() - looked < 0.02) continue;
        looked = now();
        for (int i = 0; i < clients; i++) {
            struct transfer *t = &transfer[i];
            if (t->deadline > looked) continue;
            t->deadline = looked + 1, t->in_window = 0, t->gap = false, retries++;
            t->answered ? acknowledge(t, t->next - 1) : request(t);
        }
    }
    double spent = now() - start;
    qsort(sample, samples, sizeof *sample, ascending);
    printf("{\"units\": %llu, \"seconds\": %.4f, \"lost\": %.0f, \"faults\": %llu, \"files\": %llu, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
           (unsigned long long)payload, spent, retries, (unsigned long long)(wrong + errors), (unsigned long long)files, percentile(.5), percentile(.99));
    return 0;
}

int main(int count, char **arguments) {
    words = count, word = arguments;
    if (count > 1 && !strcmp(arguments[1], "dhcp")) return dhcp();
    if (count > 1 && !strcmp(arguments[1], "tftp")) return tftp();
    return fprintf(stderr, "usage: load dhcp|tftp --name value ...  (the head of load.c lists them)\n"), 2;
}
